package terminal

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Keys are the keys that a person presses, without Return and without showing. A key is the
// text of a letter, or one of the names up, down, page-up, page-down, home, end and escape. Nil where a
// stream is no terminal, or belongs to another program now. stop gives the terminal back.
func Keys(stream any) (keys <-chan string, stop func()) {
	none := func() {}
	t := Of(stream)
	if t == nil {
		return nil, none
	}
	fd := int(t.Fd())
	if group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == nil && group != unix.Getpgrp() {
		return nil, none // in the background, where asking would stop this process
	}
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, none
	}
	// Another opening, of which reading can be broken off.
	in, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, none
	}
	single := *before
	single.Lflag &^= unix.ICANON | unix.ECHO
	single.Cc[unix.VMIN], single.Cc[unix.VTIME] = 1, 0
	set := func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, &single) }
	set()
	back := make(chan os.Signal, 1) // in the foreground
	signal.Notify(back, syscall.SIGCONT)
	pressed, quit := make(chan string), make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for buffer := make([]byte, 64); ; {
			n, err := in.Read(buffer)
			if err != nil {
				return
			}
			for text := buffer[:n]; len(text) > 0; {
				var key string
				key, text = nextKey(text)
				select {
				case pressed <- key:
				case <-quit:
					return
				}
			}
		}
	})
	group.Go(func() {
		for {
			select {
			case <-back:
				set()
			case <-quit:
				return
			}
		}
	})
	return pressed, func() {
		close(quit)
		in.Close()
		group.Wait()
		signal.Stop(back)
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, before)
	}
}

// sequences are what terminals send for keys that have no letter.
var sequences = map[string]string{
	"\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down", "\x1b[5~": "page-up", "\x1b[6~": "page-down",
	"\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home", "\x1b[F": "end", "\x1bOF": "end", "\x1b[4~": "end",
}

// nextKey takes a key off a text.
func nextKey(text []byte) (key string, rest []byte) {
	for sequence, key := range sequences {
		if len(text) >= len(sequence) && string(text[:len(sequence)]) == sequence {
			return key, text[len(sequence):]
		}
	}
	if text[0] == '\x1b' {
		return "escape", nil // with what belongs to it
	}
	_, n := utf8.DecodeRune(text)
	return string(text[:n]), text[n:]
}
