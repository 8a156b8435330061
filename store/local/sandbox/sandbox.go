// Package sandbox is what runs inside the namespaces of a build, before and beside
// the builder. Package store/local starts the program that it is linked into once
// more, in new namespaces, with the variable [Variable] set and a [Config] on file
// descriptor [ControlFD]. That process, the first of its PID namespace, mounts the
// build's file system, gives up its privileges, starts the builder, reaps whatever
// becomes its child, reports how the builder ended, and exits; then the kernel kills
// whatever is left in the namespace.
//
// All that happens in the package's init function, and the package imports neither
// fmt nor os nor anything else of weight: Go initializes a package as soon as what
// it imports is ready, so that a build does not pay for the initialization of all
// the rest of a large program. In every other process the package does nothing.
//
// The process and the builder end when the other end of the control socket is
// closed, so that a build never outlives the process that asked for it.
package sandbox

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Variable is set to the value "1" in the environment of the process that is to
// set a sandbox up.
const Variable = "LIGHTER_SANDBOX"

// ControlFD is the file descriptor of that process at which it finds a socket.
const ControlFD = 3

// Config says what a sandbox contains. File names outside are as the starting process
// sees them, absolute, and with no symlinks that others can change.
type Config struct {
	// Root is an empty folder outside, over which the sandbox's root is mounted.
	Root string
	// Store is the folder outside that is the store directory StoreDir inside, which
	// the builder can write to. It has an empty file or folder for each of Items.
	Store    string
	StoreDir string
	// Items are store items: Inside is just their name in the store.
	Items []Bind
	// Paths are other files and folders from outside. They can't be written to.
	Paths []Bind
	// Files are made in the sandbox.
	Files []File
	// Tmp is the folder outside that is /tmp inside.
	Tmp string
	// Folder is where the builder starts, inside.
	Folder string

	Builder string
	Args    []string // including the 0th
	Env     []string

	// UID and GID are who the builder is, if SetUser is set; otherwise it is who this
	// process is. Groups are the other groups that it is in.
	SetUser  bool
	UID, GID uint32
	HostUID  uint32 // what UID is outside; it is the starter's to map, and not encoded
	Groups   []uint32

	HostNetwork bool // else there is just a loopback interface
	// Interface, unless it is empty, is another network interface, which a program
	// outside sets up. The builder starts when there is a way out through it.
	Interface    string
	Personality  uint32
	MaxProcesses uint64 // RLIMIT_NPROC
	// Probe ends the sandbox when the builder could be started, without starting it.
	Probe bool
}

// Bind is a file or folder from outside at a place inside. Of Paths, it must be the one
// that Device and Inode say, unless they are 0.
type Bind struct {
	Outside, Inside string
	Device, Inode   uint64
}

// File is a small file, made with the folders that it is in.
type File struct{ Inside, Contents string }

// Kind begins a message from the sandbox.
type Kind byte

// The messages.
const (
	Failed  Kind = 'F' // this machine could not set the sandbox up: step and errno follow
	NoExec  Kind = 'N' // the builder can't be started: the same follows
	Started Kind = 'S' // the builder has been started
	Exited  Kind = 'X' // the builder has ended: its wait status and memory follow
)

// Message is what the sandbox tells.
type Message struct {
	Kind   Kind
	Step   string // what failed
	Errno  unix.Errno
	Status unix.WaitStatus
	// Largest is the most memory that one process of the build had, in bytes, of those that had ended.
	Largest uint64
}

// NewDecoder returns a decoder of what has come from the control socket.
func NewDecoder(b []byte) *Decoder { return &Decoder{rest: b} }

// Decoder reads the encodings of this package.
type Decoder struct {
	rest []byte
	bad  bool
}

// Message reads the next message; ok is false if there is none, or not a whole one.
func (d *Decoder) Message() (m Message, ok bool) {
	m.Kind = Kind(d.number()) //nolint:gosec // as it was encoded
	switch m.Kind {
	case Failed, NoExec:
		m.Errno = unix.Errno(d.number())
		m.Step = d.text()
	case Exited:
		m.Status = unix.WaitStatus(d.number()) //nolint:gosec // as it was encoded
		m.Largest = d.number()
	case Started:
	default:
		return m, false
	}
	return m, !d.bad
}

func (m *Message) encode() []byte {
	var e encoder
	e.number(uint64(m.Kind))
	switch m.Kind {
	case Failed, NoExec:
		e.number(uint64(m.Errno))
		e.text(m.Step)
	case Exited:
		e.number(uint64(m.Status))
		e.number(m.Largest)
	}
	return e.b
}

// Encode returns the encoding of the configuration, with its length in front.
func (c *Config) Encode() []byte { return encode(c.each) }

func encode(each func(codec)) []byte {
	e := encoder{b: make([]byte, 8, 4096)}
	each(&e)
	size := len(e.b) - 8
	var length encoder
	length.number(uint64(size)) //nolint:gosec // a length
	copy(e.b, length.b)
	return e.b
}

// codec goes through the fields in one order, to write or to read them.
type codec interface {
	String(s *string)
	Number(n *uint64)
}

func (c *Config) each(x codec) {
	for _, s := range []*string{&c.Root, &c.Store, &c.StoreDir, &c.Tmp, &c.Folder, &c.Builder, &c.Interface} {
		x.String(s)
	}
	list(x, &c.Items, func(b *Bind) { x.String(&b.Outside); x.String(&b.Inside) })
	list(x, &c.Paths, func(b *Bind) { x.String(&b.Outside); x.String(&b.Inside); x.Number(&b.Device); x.Number(&b.Inode) })
	list(x, &c.Files, func(f *File) { x.String(&f.Inside); x.String(&f.Contents) })
	list(x, &c.Args, x.String)
	list(x, &c.Env, x.String)
	list(x, &c.Groups, func(g *uint32) { integer(x, g) })
	integer(x, &c.UID)
	integer(x, &c.GID)
	integer(x, &c.Personality)
	x.Number(&c.MaxProcesses)
	for _, b := range []*bool{&c.SetUser, &c.HostNetwork, &c.Probe} {
		var n uint64
		if *b {
			n = 1
		}
		x.Number(&n)
		*b = n != 0
	}
}

func integer(x codec, v *uint32) {
	n := uint64(*v)
	x.Number(&n)
	*v = uint32(n) //nolint:gosec // what was written was a uint32
}

func list[T any](x codec, items *[]T, item func(*T)) {
	n := uint64(len(*items))
	x.Number(&n)
	if *items == nil {
		*items = make([]T, n)
	}
	for i := range *items {
		item(&(*items)[i])
	}
}

type encoder struct{ b []byte }

func (e *encoder) Number(n *uint64) { e.number(*n) }
func (e *encoder) String(s *string) { e.text(*s) }

func (e *encoder) number(n uint64) {
	for i := range 8 {
		e.b = append(e.b, byte(n>>(8*i))) //nolint:gosec // eight bits are meant
	}
}

func (e *encoder) text(s string) {
	e.number(uint64(len(s)))
	e.b = append(e.b, s...)
}

// Number and String implement codec.
func (d *Decoder) Number(n *uint64) { *n = d.number() }

// String reads a string.
func (d *Decoder) String(s *string) { *s = d.text() }

func (d *Decoder) number() uint64 {
	if len(d.rest) < 8 {
		d.bad, d.rest = true, nil
		return 0
	}
	var n uint64
	for i := range 8 {
		n |= uint64(d.rest[i]) << (8 * i)
	}
	d.rest = d.rest[8:]
	return n
}

func (d *Decoder) text() string {
	n := d.number()
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return ""
	}
	s := string(d.rest[:n])
	d.rest = d.rest[n:]
	return s
}

// parent returns the folder that a file is in.
func parent(name string) string {
	i := strings.LastIndexByte(name, '/')
	if i <= 0 {
		return "/"
	}
	return name[:i]
}
