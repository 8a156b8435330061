package measure

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lighter/store"
)

// helperVariable has this program be a build: words that it does, one after the other. "alloc=MIB" takes
// memory, "spin=MILLISECONDS" processor time of its own, "threads=N" has threads run on, "child=WORDS"
// starts another one, with commas for spaces, and "wait" says so and waits for the end of its input.
const helperVariable = "LIGHTER_MEASURE_HELPER"

func TestMain(m *testing.M) {
	if words, ok := os.LookupEnv(helperVariable); ok {
		helper(words)
		return
	}
	os.Exit(m.Run())
}

var sink [][]byte

func helper(words string) {
	for _, word := range strings.Fields(words) {
		key, value, _ := strings.Cut(word, "=")
		n, _ := strconv.Atoi(value)
		switch key {
		case "alloc":
			b := make([]byte, n<<20)
			for i := 0; i < len(b); i += 512 {
				b[i] = 1
			}
			sink = append(sink, b)
		case "spin":
			spin(time.Duration(n) * time.Millisecond)
		case "threads":
			for range n {
				go spin(time.Hour)
			}
		case "child":
			child := helperCommand(strings.ReplaceAll(value, ",", " "))
			child.Stdin, child.Stdout = os.Stdin, os.Stdout
			if err := child.Run(); err != nil {
				panic(err)
			}
		case "wait":
			fmt.Println("waiting")
			_, _ = io.Copy(io.Discard, os.Stdin)
		}
	}
}

// spin takes so much processor time of the process.
func spin(much time.Duration) {
	for {
		var used syscall.Rusage
		if syscall.Getrusage(syscall.RUSAGE_SELF, &used) != nil || time.Duration(used.Utime.Nano()+used.Stime.Nano()) >= much {
			return
		}
	}
}

func helperCommand(words string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVariable+"="+words)
	cmd.Stderr = os.Stderr
	return cmd
}

// started is a helper that has come to its "wait".
type started struct {
	*exec.Cmd
	input io.Closer
}

// start starts one, in the build's group if there is one.
func start(t *testing.T, b *Build, words string) *started {
	t.Helper()
	cmd := helperCommand(words)
	cmd.SysProcAttr = new(syscall.SysProcAttr)
	b.Attr(cmd.SysProcAttr)
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &started{cmd, input}
	t.Cleanup(func() { input.Close(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(output).ReadString('\n'); line != "waiting\n" {
		t.Fatalf("the helper says %q (%v)", line, err)
	}
	return s
}

// end ends it.
func (s *started) end(t *testing.T, b *Build) {
	t.Helper()
	s.input.Close()
	if err := s.Wait(); err != nil {
		t.Fatal(err)
	}
	b.CPU(s.ProcessState.UserTime() + s.ProcessState.SystemTime())
}

func (m *Meter) lookNow(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lookAtAll(at)
}

const mib = 1 << 20

// TestTree measures real processes by /proc: parent and child together have more than each one.
func TestTree(t *testing.T) {
	m := New(Options{NoCgroups: true})
	b := m.Own(1 << 40)
	s := start(t, b, "alloc=60 child=alloc=50,spin=300,wait spin=100")
	if !b.Watch(s.Process.Pid, true) {
		t.Fatal("its process is not seen")
	}
	m.lookNow(time.Now().Add(minAge))
	s.end(t, b)
	u := b.End()
	t.Logf("%+v", u)
	// The race detector takes as much again, twice.
	if u.PeakMemory < 110*mib || u.PeakMemory > 600*mib {
		t.Errorf("peak memory is %d MiB", u.PeakMemory/mib)
	}
	if u.CPU < 0.4 || u.CPU > 60 {
		t.Errorf("processor time is %g s", u.CPU)
	}
	if u.Method != store.MeasuredProcesses || u.MemoryLimit != 0 || u.KilledForMemory {
		t.Errorf("got %+v", u)
	}
	for _, want := range []string{"memory: looked at", "a shorter peak is not known", "no limit of memory was set", "no control group: none are wanted"} {
		if !strings.Contains(u.Unmeasured, want) {
			t.Errorf("%q lacks %q", u.Unmeasured, want)
		}
	}
	if again := b.End(); again != u {
		t.Errorf("got %+v the second time", again)
	}
}

// TestGroup measures in a control group where the kernel has them for this process, and else looks at what
// is said in its place.
func TestGroup(t *testing.T) {
	m := New(Options{})
	b := m.Own(0)
	s := start(t, b, "alloc=60 child=alloc=50,spin=300,wait spin=100")
	if !b.Watch(s.Process.Pid, true) {
		t.Fatal("its process is not seen")
	}
	m.lookNow(time.Now().Add(minAge))
	s.end(t, b)
	u := b.End()
	t.Logf("%+v", u)
	// The race detector takes as much again, twice.
	if u.PeakMemory < 110*mib || u.PeakMemory > 600*mib || u.CPU < 0.4 || u.CPU > 60 {
		t.Errorf("got %d MiB, %g s", u.PeakMemory/mib, u.CPU)
	}
	if m.groups == nil {
		if m.noGroups == "" || !strings.Contains(u.Unmeasured, "no control group: "+m.noGroups) || u.Method != store.MeasuredProcesses {
			t.Errorf("without control groups (%q): %+v", m.noGroups, u)
		}
		return
	}
	if u.Method != store.MeasuredCgroup || u.Unmeasured != "" {
		t.Errorf("got %+v", u)
	}
	if _, err := os.Stat(b.group.dir); err == nil {
		t.Errorf("%s is still there", b.group.dir)
	}
	t.Run("limit", func(t *testing.T) {
		b := m.Own(100 * mib)
		cmd := helperCommand("alloc=300")
		cmd.SysProcAttr = new(syscall.SysProcAttr)
		b.Attr(cmd.SysProcAttr)
		err := cmd.Run()
		u := b.End()
		t.Logf("%v, %+v", err, u)
		if err == nil || !u.KilledForMemory || u.MemoryLimit != 100*mib || u.PeakMemory < 80*mib || u.PeakMemory > 101*mib {
			t.Errorf("got %v, %+v", err, u)
		}
	})
	t.Run("cache", func(t *testing.T) {
		b := m.Own(0)
		file := filepath.Join(t.TempDir(), "file")
		cmd := exec.CommandContext(t.Context(), "dd", "if=/dev/zero", "of="+file, "bs=1M", "count=200")
		cmd.SysProcAttr = new(syscall.SysProcAttr)
		b.Attr(cmd.SysProcAttr)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(file, &fs); err != nil {
			t.Fatal(err)
		}
		inMemory := fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC
		if u := b.End(); inMemory != (u.PeakMemory > 100*mib) {
			t.Errorf("what was cached of a file counts, or what is in memory alone does not: %+v", u)
		}
	})
	t.Run("leftover", func(t *testing.T) {
		gone := filepath.Join(m.groups.base, buildPrefix+"999999999-1")
		if err := os.Mkdir(gone, 0o755); err != nil {
			t.Fatal(err)
		}
		New(Options{}).Own(0).End()
		if _, err := os.Stat(gone); err == nil {
			t.Errorf("%s is still there", gone)
		}
	})
}

// TestNothingSeen measures a build whose processes are elsewhere, and one that was too short.
func TestNothingSeen(t *testing.T) {
	m := New(Options{NoCgroups: true})
	if u := m.Of(1<<30, 0).End(); u.CPU != 0 || u.PeakMemory != 0 || !strings.Contains(u.Unmeasured, "memory: "+hiddenProcesses) || !strings.Contains(u.Unmeasured, "processor time: "+hiddenProcesses) {
		t.Errorf("got %+v", u)
	}
	b := m.Of(os.Getpid(), 0)
	b.CPU(time.Second)
	if u := b.End(); u.CPU != 1 || u.PeakMemory != 0 || u.Unmeasured != "memory: the build ended too soon to look at it" {
		t.Errorf("got %+v", u)
	}
	b = m.Of(os.Getpid(), 0)
	b.Largest(5)
	if u := b.End(); u.PeakMemory != 5 || !strings.HasPrefix(u.Unmeasured, "memory: that of the largest process alone") {
		t.Errorf("got %+v", u)
	}
	var none *Build
	none.CPU(1)
	none.Largest(1)
	if none.Watch(1, true) || none.Attr(nil) || none.End() != (store.Measured{}) {
		t.Error("no build is one")
	}
}

// TestLookingEnds has builds looked at until there are none.
func TestLookingEnds(t *testing.T) {
	m := New(Options{NoCgroups: true})
	b := m.Of(os.Getpid(), 0)
	if !m.looking {
		t.Fatal("nothing is looked at")
	}
	b.End()
	for looking := true; looking; { // else the test hangs
		m.mu.Lock()
		looking = m.looking
		m.mu.Unlock()
	}
}

// TestOwnLoad counts the threads of real processes as load.
func TestOwnLoad(t *testing.T) {
	m := New(Options{NoCgroups: true})
	if m.OwnLoad() != 0 {
		t.Error("nothing is a load")
	}
	b := m.Own(0)
	s := start(t, b, "threads=2 child=threads=1,wait wait")
	b.Watch(s.Process.Pid, true)
	now := time.Now()
	m.table.read(m.proc)
	if n := m.proc.active(m.table.tree(b.root)); n < 3 || n > 20 {
		t.Errorf("%d threads are active", n)
	}
	for i := range 24 { // two minutes
		m.lookNow(now.Add(time.Duration(i) * loadInterval))
	}
	if got := m.load.now(); got < 1 || got > 20 {
		t.Errorf("the load is %g", got)
	}
	if got := m.load.after(now.Add(time.Hour)); got != 0 {
		t.Errorf("an hour later the load is %g", got)
	}
	_ = s.Process.Kill()
	s.input.Close()
	_ = s.Wait()
	b.End()
}

// TestAverage compares with what the kernel's calc_load makes of the same counts.
func TestAverage(t *testing.T) {
	var a average
	at := time.Unix(1_000_000_000, 0)
	a.add(at.Add(-loadInterval), 0)
	for i, want := range []float64{164. / 2048, 315. / 2048, 454. / 2048, 582. / 2048} {
		now := at.Add(time.Duration(i)*loadInterval + 3*time.Second)
		if !a.due(now) {
			t.Fatalf("count %d is not due", i)
		}
		a.add(now, 1)
		if a.due(now.Add(time.Second)) {
			t.Errorf("count %d is due twice", i)
		}
		if got := a.now(); got != want {
			t.Errorf("after %d counts: got %g, want %g", i+1, got*2048, want*2048)
		}
	}
	for i := range 1000 {
		a.add(at.Add(time.Duration(4+i)*loadInterval), 7)
	}
	if got := a.now(); got != 7 {
		t.Errorf("7 forever make %g", got)
	}
	if got := a.after(at.Add(1015 * loadInterval)); got < 2.56 || got > 2.58 { // 7/e
		t.Errorf("a minute after that: %g", got)
	}
	// A count that comes late stands for the times before it.
	late := a
	late.add(at.Add(1015*loadInterval), 7)
	if got := late.now(); got != 7 {
		t.Errorf("a minute later it is still %g", got)
	}
	// Clocks are set.
	late.add(at.Add(-time.Hour), 7)
	late.add(at.Add(1e6*time.Hour), 2)
	if got := late.now(); got != 2 {
		t.Errorf("long after that it is %g", got)
	}
	var first average
	if first.add(at, 1); first.now() != 164./2048 {
		t.Errorf("the first count makes %g", first.now())
	}
}

func TestParseStat(t *testing.T) {
	rest := " S 7 1 1 0 -1 4194560 1 2 3 4 50 60 200 300 20 0 9 0 12345 1000 5 18446744073709551615 1 1 0"
	for text, want := range map[string]process{
		"42 (sh)" + rest + "\n":                {42, 7, 'S', 9, 5 * time.Second, 12345},
		"42 (a) R 1 (b c)" + rest:              {42, 7, 'S', 9, 5 * time.Second, 12345},
		"42 (with\nline) )" + rest:             {42, 7, 'S', 9, 5 * time.Second, 12345},
		"42 (sh) S 7":                          {},
		"":                                     {},
		"42":                                   {},
		")(":                                   {},
		"(sh)" + rest:                          {},
		"42 (sh) S " + strings.Repeat(" ", 99): {},
	} {
		got, ok := parseStat([]byte(text))
		if got != want || ok != (want.pid != 0) {
			t.Errorf("%q: got %+v, %v", text, got, ok)
		}
	}
}
