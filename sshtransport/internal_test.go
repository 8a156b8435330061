package sshtransport

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pkg/sftp"

	"lighter/internal/disk"
	"lighter/internal/testkit"
)

func TestQuote(t *testing.T) {
	for _, test := range []struct {
		words []string
		want  string
	}{
		{[]string{".cache/lighter-agent", "start"}, ".cache/lighter-agent start"},
		{[]string{"a b", ""}, "'a b' ''"},
		{[]string{"it's", `back\slash`, "wow!"}, `'it'\''s' 'back'\\'slash' 'wow'\!''`},
		{[]string{"~/x", "$HOME", "a=b", "*"}, "'~/x' '$HOME' 'a=b' '*'"},
		{[]string{"ä"}, "'ä'"},
	} {
		got, err := quote(test.words...)
		if err != nil || got != test.want {
			t.Errorf("quote(%q) = %s, %v; want %s", test.words, got, err, test.want)
		}
	}
	for _, bad := range []string{"a\nb", "a\x00b", "\r"} {
		if got, err := quote("x", bad); err == nil {
			t.Errorf("quote(%q) = %s", bad, got)
		}
	}
}

// Shells that are there understand what quote makes.
func TestQuoteInShells(t *testing.T) {
	var word strings.Builder
	for c := byte(1); c < 0x7f; c++ {
		if c != '\n' && c != '\r' {
			word.WriteByte(c)
		}
	}
	words := []string{word.String(), "", `end\`, "'", "~", "=ls", "a  b", "!!"}
	line, err := quote(append([]string{"printf", "%s\\0"}, words...)...)
	if err != nil {
		t.Fatal(err)
	}
	for _, shell := range []string{"sh", "bash", "dash", "zsh", "fish", "csh", "tcsh", "busybox"} {
		t.Run(shell, func(t *testing.T) {
			_, err := exec.LookPath(shell)
			if err != nil && shell != "sh" && shell != "bash" {
				t.Skip("not installed; in CI, too, each of the rarer shells is tested where it is")
			}
			path := testkit.NeedCommand(t, shell)
			args := []string{"-c", line}
			if shell == "busybox" {
				args = append([]string{"sh"}, args...)
			}
			out, err := exec.CommandContext(t.Context(), path, args...).Output()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(words, strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")); diff != "" {
				t.Errorf("words (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadMagic(t *testing.T) {
	for _, test := range []struct{ name, input, line, rest, err string }{
		{"at once", "lighter-agent/1 connect\nrest", "lighter-agent/1 connect", "rest", ""},
		{"carriage return", "lighter-agent/1 connect\r\nrest", "lighter-agent/1 connect", "rest", ""},
		{"noise", "hello\n\n\x1b[1mworld lighter-agent/2\nlighter-agent/1 start {}\n", "lighter-agent/1 start {}", "", ""},
		{"noise without an end", "prompt> lighter-agent/1 connect\n", "lighter-agent/1 connect", "", ""},
		{"much noise", strings.Repeat("x", 200<<10) + "\nlighter-agent/1 connect\n", "lighter-agent/1 connect", "", ""},
		{"nothing", "", "", "", "no magic line in what it printed"},
		{"noise alone", "command\a not found\n", "", "", "no magic line in what it printed: command\uFFFD not found"},
		{"cut", "lighter-agent/1 conn", "", "", "no magic line in what it printed: lighter-agent/1 conn"},
		{"too much noise", strings.Repeat("y\n", 200<<10), "", "", "no magic line in the first"},
		{"too long a line", "lighter-agent/1 " + strings.Repeat("z", 9<<10) + "\n", "", "", "no magic line in what it printed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := bufio.NewReaderSize(strings.NewReader(test.input), 64<<10)
			line, err := readMagic(r)
			if line != test.line {
				t.Errorf("line %q, want %q", line, test.line)
			}
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.HasPrefix(err.Error(), test.err)) {
				t.Fatalf("error = %v, want %q", err, test.err)
			}
			if err != nil {
				return
			}
			if rest, _ := io.ReadAll(r); string(rest) != test.rest {
				t.Errorf("rest %q, want %q", rest, test.rest)
			}
		})
	}
}

func TestAgentOf(t *testing.T) {
	for _, test := range []struct {
		line string
		want agent
		err  string
	}{
		{`lighter-agent/1 start {"socket":"/run/a b"}`, agent{socket: "/run/a b", connect: "p relay '/run/a b'"}, ""},
		{`lighter-agent/1 start {"socket":"/x","pid":12}`, agent{socket: "/x", connect: "/proc/12/exe relay /x"}, ""},
		{`lighter-agent/1 start {"socket":"/x","new":[1]}`, agent{socket: "/x", connect: "p relay /x"}, ""},
		{"lighter-agent/1 connect", agent{mode: ModeSession, connect: "lighter-agent connect", fixed: true}, ""},
		{`lighter-agent/1 start {"socket":"x"}`, agent{}, `the agent's socket "x" is not absolute`},
		{`lighter-agent/1 start {"socket":"/a\nb"}`, agent{}, "line break"},
		{`lighter-agent/1 start {"socket":"/a\u0000b"}`, agent{}, "NUL"},
		{`lighter-agent/1 start {"socket":"/` + strings.Repeat("x", 1000) + `"}`, agent{}, "1001 bytes"},
		{`lighter-agent/1 start {`, agent{}, "unexpected end of JSON input"},
		{`lighter-agent/1 other`, agent{}, "another version"},
	} {
		got, err := agentOf(test.line, "p")
		if got != test.want {
			t.Errorf("agentOf(%q) = %+v, want %+v", test.line, got, test.want)
		}
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("agentOf(%q): %v, want %q", test.line, err, test.err)
		}
	}
}

func TestWriteStart(t *testing.T) {
	var b strings.Builder
	if err := WriteStart(&b, StartAnswer{Socket: "/a\u2028<b>", Version: "1", PID: 7}); err != nil {
		t.Fatal(err)
	}
	line, err := readMagic(bufio.NewReader(strings.NewReader(b.String())))
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseStart(strings.TrimPrefix(line, magicStart))
	if want := (StartAnswer{Socket: "/a\u2028<b>", Version: "1", PID: 7}); err != nil || got != want {
		t.Errorf("%q = %+v, %v; want %+v", line, got, err, want)
	}
	if err := WriteStart(&b, StartAnswer{Socket: "relative"}); err == nil {
		t.Error("a relative name was written")
	}
}

func TestNotThere(t *testing.T) {
	for _, test := range []struct {
		err  error
		want bool
	}{
		{&CommandError{Status: 127, Stderr: "sh: 1: x: not found"}, true},
		{&CommandError{Status: 126, Stderr: "bash: x: Permission denied"}, true},
		{&CommandError{Status: 1, Stderr: "x: Command not found."}, true}, // csh
		{&CommandError{Status: 1, Stderr: "lighter-agent: state is locked"}, false},
		{&CommandError{Status: 2}, false},
		{&CommandError{Status: 0, Reason: "no magic line"}, false},
		{&CommandError{Status: -1, Signal: "SEGV"}, false},
		{&LinkError{Cause: io.EOF}, false},
		{nil, false},
	} {
		if got := notThere(test.err); got != test.want {
			t.Errorf("notThere(%v) = %v", test.err, got)
		}
	}
}

func TestParseUname(t *testing.T) {
	for _, test := range []struct {
		out  string
		want platform
		err  bool
	}{
		{"Linux x86_64\n", platform{"linux", "amd64"}, false},
		{"Linux aarch64\r\n", platform{"linux", "arm64"}, false},
		{"Linux armv7l", platform{"linux", "arm"}, false},
		{"Linux i686", platform{"linux", "386"}, false},
		{"Darwin arm64", platform{"darwin", "arm64"}, false},
		{"Linux riscv64", platform{"linux", "riscv64"}, false},
		{"Linux ppc64le", platform{"linux", "ppc64le"}, false},
		{"Linux pdp11", platform{}, true},
		{"Linux", platform{}, true},
		{"", platform{}, true},
		{"a b c", platform{}, true},
	} {
		got, err := parseUname(test.out)
		if got != test.want || (err != nil) != test.err {
			t.Errorf("parseUname(%q) = %v, %v; want %v", test.out, got, err, test.want)
		}
	}
}

func TestTail(t *testing.T) {
	var tl tail
	for range 1000 {
		tl.Write([]byte("0123456789\n"))
	}
	got := tl.String()
	if len(got) > 2*maxTail || !strings.HasPrefix(got, "…") || !strings.HasSuffix(got, "0123456789 | 0123456789") {
		t.Errorf("tail = %q", got)
	}
	for in, want := range map[string]string{
		"":                         "",
		"one\n\n  two \r\n":        "one | two",
		"\x1b]0;title\a\x00x\ty":   "\uFFFD]0;title\uFFFD\uFFFDx y",
		"bad \xff utf-8 \u202e ok": "bad \uFFFD utf-8 \uFFFD ok",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestSlots(t *testing.T) {
	testkit.CheckLeaks(t)
	s := &slots{limit: 2}
	ctx := t.Context()
	take := func() error { return s.acquire(ctx, nil) }
	if err := errors.Join(take(), take()); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.acquire(short, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("acquire = %v", err)
	}
	over := make(chan struct{})
	close(over)
	if err := s.acquire(ctx, over); err == nil {
		t.Error("a slot of a link that is over")
	}
	waits := make(chan error)
	go func() { waits <- take() }()
	s.release()
	if err := <-waits; err != nil {
		t.Errorf("acquire = %v", err)
	}
	// The server refuses the second of two: from now on one at a time.
	if limit := s.refused(); limit != 1 {
		t.Errorf("limit %d, want 1", limit)
	}
	s.release()
	if err := take(); err != nil {
		t.Error(err)
	}
	// It refuses the only one: no waiting would help.
	if limit := s.refused(); limit != 0 {
		t.Errorf("limit %d, want 0", limit)
	}
	if err := take(); err != nil {
		t.Error(err)
	}
}

func TestDeadline(t *testing.T) {
	var d deadline
	d.init()
	d.set(time.Now().Add(time.Hour))
	d.set(time.Unix(1, 0))
	if !d.passed() {
		t.Error("a deadline in the past has not passed")
	}
	d.set(time.Time{})
	if d.passed() {
		t.Error("no deadline has passed")
	}
	d.set(time.Now().Add(time.Millisecond))
	<-d.wait()
	d.set(time.Now().Add(time.Hour))
	if d.passed() {
		t.Error("the old deadline counts")
	}
	d.set(time.Time{})
}

func FuzzReadMagic(f *testing.F) {
	f.Add([]byte("noise\nlighter-agent/1 start {\"socket\":\"/x\"}\nrest"))
	f.Add([]byte("lighter-agent/1 connect\r\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		line, err := readMagic(bufio.NewReaderSize(strings.NewReader(string(input)), 64<<10))
		if err != nil {
			return
		}
		a, err := agentOf(line, "program")
		if err != nil {
			return
		}
		if a.socket == "" && a.mode != ModeSession || strings.ContainsAny(a.connect, "\n\x00") {
			t.Errorf("%q: %+v", line, a)
		}
	})
}

// TestStartScript swaps the program while it is hashed: what was hashed runs, or nothing.
func TestStartScript(t *testing.T) {
	dir := t.TempDir()
	program, other, bin := filepath.Join(dir, "it's a program"), filepath.Join(dir, "other"), filepath.Join(dir, "bin")
	echo, err := exec.LookPath("echo")
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(echo)
	if err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(good))
	const swapping = "#!/bin/sh\nPATH=/usr/bin:/bin\ns=$(sha256sum); cp \"$OTHER\" \"$OTHER.new\"; mv \"$OTHER.new\" \"$PROGRAM\"; echo \"$s\"\n"
	for _, tt := range []struct {
		name   string
		hasher string
		sum    string
		spoil  string // contents of the program
		status int
	}{
		{"good", "#!/bin/sh\nexec /usr/bin/sha256sum\n", sum, "", 0},
		{"swapped meanwhile", swapping, sum, "", 0},
		{"other contents", "#!/bin/sh\nexec /usr/bin/sha256sum\n", sum, "#!/bin/sh\necho evil\n", statusWrongHash},
		{"other hash", "#!/bin/sh\nexec /usr/bin/sha256sum\n", strings.Repeat("0", 64), "", statusWrongHash},
		{"no hash", "#!/bin/sh\nexec /usr/bin/sha256sum\n", "*", "", statusWrongHash},
		{"hasher says nothing", "#!/bin/sh\n", sum, "", statusWrongHash},
		{"no hasher", "", sum, "", statusNoHash},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := good
			if tt.spoil != "" {
				text = []byte(tt.spoil)
			}
			for file, text := range map[string][]byte{program: text, other: []byte("#!/bin/sh\necho evil\n")} {
				os.Remove(file)
				if err := os.WriteFile(file, text, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			os.RemoveAll(bin)
			if err := os.Mkdir(bin, 0o755); err != nil {
				t.Fatal(err)
			}
			if tt.hasher != "" {
				if err := os.WriteFile(filepath.Join(bin, "sha256sum"), []byte(tt.hasher), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			line, err := quote("sh", "-c", startScript, program, tt.sum, "start", "a b", "")
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/bin/sh", "-c", "PATH="+bin+"; "+strings.Replace(line, "sh ", "/bin/sh ", 1))
			cmd.Env = []string{"PATH=" + bin, "PROGRAM=" + program, "OTHER=" + other}
			out, err := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != tt.status {
				t.Errorf("status %d (%v), want %d: %s", got, err, tt.status, out)
			}
			want := ""
			if tt.status == 0 {
				want = "start a b \n"
			}
			if string(out) != want {
				t.Errorf("printed %q, want %q", out, want)
			}
		})
	}
}

// endlessDir is a folder that has always more in it.
type endlessDir struct{}

func (endlessDir) Filelist(r *sftp.Request) (sftp.ListerAt, error) { return endlessDir{}, nil }

func (endlessDir) ListAt(infos []fs.FileInfo, _ int64) (int, error) {
	for i := range infos {
		infos[i] = endlessDir{}
	}
	return len(infos), nil
}

func (endlessDir) Name() string       { return strings.Repeat("x", 200) }
func (endlessDir) Size() int64        { return 0 }
func (endlessDir) Mode() fs.FileMode  { return 0o700 }
func (endlessDir) ModTime() time.Time { return time.Time{} }
func (endlessDir) IsDir() bool        { return false }
func (endlessDir) Sys() any           { return nil }

// TestEndlessListing has a server list a folder forever.
func TestEndlessListing(t *testing.T) {
	ours, theirs := net.Pipe()
	server := sftp.NewRequestServer(theirs, sftp.Handlers{FileList: endlessDir{}})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve()
	}()
	said := newAllowance(ours)
	client, err := sftp.NewClientPipe(said, ours)
	if err != nil {
		t.Fatal(err)
	}
	said.bound(maxListing)
	if infos, err := client.ReadDir("/"); err == nil || len(infos) > maxListing/200 {
		t.Errorf("%d names, %v", len(infos), err)
	}
	ours.Close()
	theirs.Close()
	client.Close()
	<-served
}

// The folder of a master whose coordinator was killed goes, one that is in use stays.
func TestRemoveStaleMasters(t *testing.T) {
	base := t.TempDir()
	old := time.Now().Add(-time.Hour)
	for _, name := range []string{masterPrefix + "stale", masterPrefix + "used", masterPrefix + "empty", masterPrefix + "new", "other"} {
		dir := filepath.Join(base, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if name != masterPrefix+"empty" {
			if err := os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if name == masterPrefix+"used" {
			lock, err := disk.Lock(filepath.Join(dir, "lock"))
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Close()
		}
		if name != masterPrefix+"new" {
			if err := os.Chtimes(dir, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	removeStaleMasters(base, time.Now())
	left, err := filepath.Glob(base + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range left {
		left[i] = filepath.Base(name)
	}
	if got, want := strings.Join(left, " "), "lighter-ssh-new lighter-ssh-used other"; got != want {
		t.Errorf("left: %s, want %s", got, want)
	}
}
