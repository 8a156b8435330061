// Command bench compares lighter with "guix offload" on the head of the lab: the same
// work through the same guix-daemon program, alternating, on the same machines.
//
//	make bench-guix [GUIXBENCHFLAGS='-n 5 -run REGEXP']
//
// Each contender has a guix-daemon of its own for the head's store, without slots, so that
// everything is offloaded; clients send one request with all the derivations. What is
// measured is the time of that request. CPU time and memory of hooks and coordinator are
// taken in runs of their own, with a program between guix-daemon and the hook.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lighter/internal/guixlab"
	"lighter/store"
)

func main() {
	if os.Getenv(measureVariable) != "" {
		os.Exit(measure())
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench-guix:", err)
		os.Exit(1)
	}
}

// work is one thing to be built.
type work struct {
	name     string
	machines int  // 1 or 2
	slow     bool // with "guix offload"
	big      bool // so that stores are emptied each time
	prepare  func(ctx context.Context, b *bench) ([]store.Path, error)
}

var works = []work{
	{name: "1 trivial build", machines: 1, prepare: trivial(1)},
	{name: "20 trivial builds, one machine, 4 slots", machines: 1, prepare: trivial(20)},
	{name: "200 trivial builds, two machines", machines: 2, slow: true, prepare: trivial(200)},
	{name: "512 MiB random file in, the same out", machines: 1, big: true, prepare: bigFile},
	{name: "80 MiB of text in 4,000 files, in and out", machines: 1, big: true, prepare: tree(4000, 20<<10)},
	{name: "20,000 files of 4 KiB, in and out", machines: 1, big: true, prepare: tree(20000, 4<<10)},
	{name: "closure of 500 items that the machine has", machines: 1, prepare: closure},
}

// bench is one run of the program.
type bench struct {
	head    *guixlab.Head
	dir     string
	unique  int
	cache   map[string]store.Path
	noUsage bool
	all     []*contender
}

func run() error {
	n := flag.Int("n", 5, "measurements of each kind")
	slow := flag.Int("slow", 5, "measurements of \"guix offload\" where it takes minutes")
	only := flag.String("run", "", "work to do, a regular expression")
	with := flag.String("with", "", "contenders to measure, a regular expression")
	usage := flag.Bool("usage", true, "measure CPU time and memory too, in runs of their own")
	as := flag.String("as", "lighter", "user that the coordinator runs as")
	flag.Parse()
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	contenders, err := regexp.Compile(*with)
	if err != nil {
		return fmt.Errorf("-with: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := &bench{cache: make(map[string]store.Path), noUsage: !*usage}
	if b.dir, err = os.MkdirTemp("/var/lib/lighter", "bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return err
	}
	if b.head, err = guixlab.OpenHead(ctx); err != nil {
		return err
	}
	defer func() { b.head.Close() }()
	b.all = []*contender{
		{name: "guix offload", guix: "/usr/bin/guix"},
		{name: "lighter, guix-daemon there", guix: guixlab.Programs + "/lighter-guix", machines: []string{"builder1", "builder2"}},
		{name: "lighter, no Guix there", guix: guixlab.Programs + "/lighter-guix", machines: []string{"plain"}},
	}
	b.all = slices.DeleteFunc(b.all, func(c *contender) bool { return !contenders.MatchString(c.name) })
	fmt.Print("| work |")
	for _, c := range b.all {
		fmt.Printf(" %s |", c.name)
	}
	fmt.Print(" times faster | hook CPU, memory: guix | hook CPU, memory: lighter | coordinator CPU, memory |\n|---|")
	fmt.Println(strings.Repeat("---|", len(b.all)+4))
	for i := range works {
		if w := &works[i]; wanted.MatchString(w.name) {
			if err := b.compare(ctx, w, *n, *slow, *as); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	return nil
}

// compare measures all contenders in turn and prints a row.
func (b *bench) compare(ctx context.Context, w *work, n, slow int, as string) error {
	var contenders []*contender
	for _, c := range b.all {
		if c.machines != nil && len(c.machines) < w.machines {
			continue
		}
		if err := c.start(ctx, b, w.machines, as); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", c.name, err), c.stop())
		}
		defer c.stop() //nolint:errcheck // what happened is said elsewhere
		contenders = append(contenders, c)
	}
	times := make(map[*contender][]time.Duration)
	for i := range n + 1 {
		for _, c := range contenders {
			if c.machines == nil && w.slow && (i == 0 || i > slow) {
				continue
			}
			took, err := b.once(ctx, w, c)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if w.big {
				if err := b.collect(ctx); err != nil {
					return err
				}
			}
			if i > 0 { // the first one warms up
				times[c] = append(times[c], took)
			}
			fmt.Fprintf(os.Stderr, "%s, %s: %.3f s\n", w.name, c.name, took.Seconds())
		}
	}
	fmt.Printf("| %s |", w.name)
	for _, c := range b.all {
		if len(times[c]) == 0 {
			fmt.Print(" |")
			continue
		}
		fmt.Printf(" %.3f s |", median(times[c]).Seconds())
	}
	if len(b.all) < 3 || b.noUsage {
		fmt.Println()
		return nil
	}
	fmt.Printf(" %.0f |", median(times[b.all[0]]).Seconds()/median(times[b.all[1]]).Seconds())
	for _, c := range contenders[:2] {
		u, err := b.usage(ctx, w, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Printf(" %s |", u.hooks)
		if c.machines != nil {
			fmt.Printf(" %s |", u.coordinator)
		}
	}
	fmt.Println()
	return nil
}

func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[len(d)/2]
}

// once has the work done once and returns how long that took.
func (b *bench) once(ctx context.Context, w *work, c *contender) (time.Duration, error) {
	drvs, err := w.prepare(ctx, b)
	if err != nil {
		return 0, err
	}
	return c.build(ctx, drvs)
}

// collect empties the stores.
func (b *bench) collect(ctx context.Context) error {
	if err := b.head.Close(); err != nil { // which protects what it added
		return err
	}
	clear(b.cache)
	for _, m := range []string{"head", "builder1", "builder2"} {
		if _, err := (guixlab.Machine{Name: m}).Run(ctx, "guix gc >/dev/null 2>&1"); err != nil {
			return err
		}
	}
	for _, c := range b.all {
		if !slices.Contains(c.machines, "plain") || c.coordinator == nil {
			continue
		}
		if out, err := exec.CommandContext(ctx, guixlab.Programs+"/lighter", "machines", "gc", "plain", "--socket="+filepath.Join(c.dir, "state", "coordinator.sock")).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	var err error
	b.head, err = guixlab.OpenHead(ctx)
	return err
}

// ---- work --------------------------------------------------------------------------------

func (b *bench) name(kind string) string {
	b.unique++
	return fmt.Sprintf("%s-%d-%d", kind, os.Getpid(), b.unique)
}

func trivial(n int) func(context.Context, *bench) ([]store.Path, error) {
	return func(ctx context.Context, b *bench) ([]store.Path, error) {
		drvs := make([]store.Path, n)
		for i := range drvs {
			var err error
			if drvs[i], err = b.head.Add(ctx, guixlab.Recipe{Name: b.name("trivial"), Script: "echo hello; echo > $out"}); err != nil {
				return nil, err
			}
		}
		return drvs, nil
	}
}

// copyOf is a derivation that copies a new source, made by the script.
func (b *bench) copyOf(ctx context.Context, script string) ([]store.Path, error) {
	name := b.name("source")
	// In memory: a file system that had thousands of files deleted is slow for a while.
	tree := filepath.Join("/run", name)
	defer os.RemoveAll(tree)
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Env = append(os.Environ(), "out="+tree)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make a source: %w: %s", err, out)
	}
	source, err := b.head.AddTree(ctx, name, tree)
	if err != nil {
		return nil, err
	}
	drv, err := b.head.Add(ctx, guixlab.Recipe{Name: b.name("copy"), Sources: []store.Path{source}, Script: "cp -r " + string(source) + " $out"})
	return []store.Path{drv}, err
}

func bigFile(ctx context.Context, b *bench) ([]store.Path, error) {
	return b.copyOf(ctx, "dd if=/dev/urandom of=$out bs=1M count=512 status=none")
}

// tree makes text in files.
func tree(files, size int) func(context.Context, *bench) ([]store.Path, error) {
	return func(ctx context.Context, b *bench) ([]store.Path, error) {
		script := fmt.Sprintf(`mkdir $out; cd $out; head -c %d /dev/urandom | base64 -w 70 | split -b %d -a 5 -d - f`, files*size*3/4, size)
		return b.copyOf(ctx, script)
	}
}

// closure makes a derivation with the same closure of inputs each time, but for itself.
func closure(ctx context.Context, b *bench) ([]store.Path, error) {
	const key = "closure"
	if b.cache[key] == "" {
		var all []store.Path
		for i := range 500 {
			p, err := b.head.Store.AddText(ctx, b.name("item"), []byte(strconv.Itoa(i)), all[max(0, len(all)-3):])
			if err != nil {
				return nil, err
			}
			all = append(all, p)
		}
		b.cache[key] = all[len(all)-1]
	}
	drv, err := b.head.Add(ctx, guixlab.Recipe{Name: b.name("closure"), Sources: []store.Path{b.cache[key]}, Script: "echo > $out"})
	return []store.Path{drv}, err
}

// ---- contenders ----------------------------------------------------------------------------

// contender is a way to offload.
type contender struct {
	name     string
	guix     string   // what guix-daemon runs
	machines []string // of the coordinator; nil for "guix offload"

	dir         string
	daemon      *exec.Cmd
	coordinator *exec.Cmd
}

func (c *contender) socket() string { return filepath.Join(c.dir, "guix-daemon.sock") }

// start starts a guix-daemon, and the coordinator.
func (c *contender) start(ctx context.Context, b *bench, machines int, as string) error {
	c.dir = filepath.Join(b.dir, b.name("contender"))
	if err := os.MkdirAll(filepath.Join(c.dir, "config"), 0o755); err != nil {
		return err
	}
	if c.machines == nil {
		if err := guixMachines(machines); err != nil {
			return err
		}
	} else if err := c.startCoordinator(ctx, machines, as); err != nil {
		return err
	}
	return c.startDaemon(ctx, "")
}

// startDaemon starts guix-daemon; with a file, what hooks use is written there.
func (c *contender) startDaemon(ctx context.Context, measured string) error {
	if c.daemon != nil {
		_ = c.daemon.Process.Kill()
		_ = c.daemon.Wait()
	}
	os.Remove(c.socket())
	c.daemon = exec.Command("guix-daemon", "--build-users-group=guixbuild", "--no-substitutes", "--max-jobs=0", "--listen="+c.socket()) //nolint:noctx // ended by stop
	c.daemon.Env = append(os.Environ(), "GUIX="+c.guix, "LIGHTER_SOCKET="+filepath.Join(c.dir, "state", "coordinator.sock"))
	if measured != "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		c.daemon.Env = append(c.daemon.Env, "GUIX="+self, measureVariable+"="+measured, measuredVariable+"="+c.guix)
	}
	if err := c.daemon.Start(); err != nil {
		return err
	}
	return poll(ctx, func() error {
		_, err := os.Stat(c.socket())
		return err
	})
}

// guixMachines writes the file that "guix offload" reads, with the first of the machines.
func guixMachines(n int) error {
	const file = "/etc/guix/machines.scm"
	all, err := os.ReadFile(filepath.Join(guixlab.Shared, "machines.scm"))
	if err != nil {
		return err
	}
	parts := strings.Split(string(all), "(build-machine")
	text := string(all)
	if n+1 < len(parts) {
		text = strings.Join(parts[:n+1], "(build-machine") + "\n)\n"
	}
	return os.WriteFile(file, []byte(text), 0o644) //nolint:gosec // as Guix has it
}

func (c *contender) startCoordinator(ctx context.Context, n int, as string) error {
	var config strings.Builder
	for _, m := range c.machines[:n] {
		kind := "guix-daemon"
		if m == "plain" {
			kind = "local"
		}
		fmt.Fprintf(&config, "[[machine]]\nname = %q\nsystems = [\"x86_64-linux\"]\nuser = \"offload\"\nstore = %q\nparallel-builds = 4\noverload-threshold = false\n", m, kind)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "config", "machines.toml"), []byte(config.String()), 0o644); err != nil { //nolint:gosec // no secret
		return err
	}
	if out, err := exec.CommandContext(ctx, "chown", "-R", as, c.dir).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	home := "/root"
	if as != "root" {
		home = "/var/lib/" + as
	}
	folders := []string{"--state=" + filepath.Join(c.dir, "state"), "--config=" + filepath.Join(c.dir, "config"), "--store=guix-daemon"}
	args := append([]string{
		"--reuid=" + as, "--regid=" + as, "--clear-groups", "env", "HOME=" + home,
		guixlab.Programs + "/lighter", "coordinator", "--agents=" + guixlab.Programs + "/agents",
	}, folders...)
	c.coordinator = exec.Command("setpriv", args...) //nolint:noctx // ended by stop
	log, err := os.Create(filepath.Join(c.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	c.coordinator.Stdout, c.coordinator.Stderr = log, log
	if err := c.coordinator.Start(); err != nil {
		return err
	}
	return poll(ctx, func() error {
		if slices.Contains(c.machines, "plain") {
			args := append([]string{"machines", "authorize", "--yes", "plain"}, folders...)
			if out, err := exec.CommandContext(ctx, guixlab.Programs+"/lighter", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
		}
		out, err := exec.CommandContext(ctx, guixlab.Programs+"/lighter", "status", "--socket="+filepath.Join(c.dir, "state", "coordinator.sock")).CombinedOutput()
		if err == nil && (bytes.Count(out, []byte(" up ")) < n || bytes.Contains(out, []byte(": "+"the head"))) {
			err = fmt.Errorf("not all machines are up: %s", out)
		}
		return err
	})
}

func poll(ctx context.Context, f func() error) error {
	var err error
	for range 600 {
		if err = f(); err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

func (c *contender) stop() error {
	for _, cmd := range []*exec.Cmd{c.daemon, c.coordinator} {
		if cmd != nil {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
	}
	c.daemon, c.coordinator = nil, nil
	return nil
}

// build builds derivations with one request.
func (c *contender) build(ctx context.Context, drvs []store.Path) (time.Duration, error) {
	args := []string{"repl", "--", "/src/internal/guixlab/bench/client.scm", c.socket()}
	for _, d := range drvs {
		args = append(args, string(d))
	}
	cmd := exec.CommandContext(ctx, "guix", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, stderr.String())
	}
	s, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	return time.Duration(s * float64(time.Second)), err
}
