// Package demo shows lighter at work on one computer: a coordinator and three
// machines as separate processes, connected by real SSH over loopback, build
// lighter's own source tree into a release.
//
// Everything happens in one temporary folder, through the commands that a person
// would use. Afterwards nothing is left running.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/machines"
	"lighter/nar"
	"lighter/sshtransport"
	"lighter/store"
	"lighter/store/derivation"
)

// Options are the choices of one demo.
type Options struct {
	Executable string    // lighter itself
	Out, Err   io.Writer // Err may be a terminal, on which the builds are shown live
	Folder     string    // from which lighter's source tree is looked for
	Result     string    // folder that the release is copied to
	Keep       bool      // leave the temporary folder
	Getenv     func(string) string
}

// Run runs the demo. When ctx ends, what was started is stopped before Run returns.
func Run(ctx context.Context, opts Options) (err error) {
	temporary, err := os.MkdirTemp("", "lighter-demo-")
	if err != nil {
		return err
	}
	d := &demo{Options: opts, folder: temporary, began: time.Now()}
	d.processes = &processes{executable: opts.Executable, env: d.environment(), folder: temporary}
	defer func() {
		d.processes.stop()
		if opts.Keep {
			fmt.Fprintf(opts.Out, "\nEverything is in %s\n", temporary)
			return
		}
		// Items of a store are read-only.
		err = errors.Join(err, nar.RemoveAll(temporary))
	}()
	return d.run(ctx)
}

// demo is one run.
type demo struct {
	Options
	*processes
	folder string
	began  time.Time
	tree   *tree
	graph  *graph
}

// spec is a machine of the demo.
type spec struct {
	name     string
	speed    float64
	slots    int
	features []string
}

var specs = []spec{
	{"alpha", 2, 3, nil},
	{"beta", 1, 2, nil},
	{"gamma", 1, 2, []string{bigParallel}},
}

// sandboxPaths are what the builders need of the computer, since there is no
// closure of packages in this store; those are taken that exist.
var sandboxPaths = []string{"/bin", "/usr", "/lib", "/lib64", "/lib32", "/etc/alternatives", "/gnu/store", "/nix/store", "/run/current-system"}

func (d *demo) run(ctx context.Context) error {
	steps := []struct {
		what string
		do   func(context.Context) error
	}{
		{"", d.findTree},
		{"", d.makeKeys},
		{"start three machines", d.startMachines},
		{"start the coordinator", d.startCoordinator},
		{"trust the machines", d.authorizeMachines},
		{"make derivations", d.addGraph},
		{"build", d.build},
		{"check the result", d.report},
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := step.do(ctx); err != nil {
			if step.what == "" || ctx.Err() != nil {
				return err
			}
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.Out, format+"\n", args...) }

func (d *demo) state() string  { return filepath.Join(d.folder, "head") }
func (d *demo) config() string { return filepath.Join(d.folder, "config") }
func (d *demo) sshKey() string { return filepath.Join(d.config(), "ssh-key") }

// environment is what the programs see: nothing of this user's own lighter, and
// no ssh-agent.
func (d *demo) environment() []string {
	env := []string{
		"HOME=" + d.folder,
		"LIGHTER_STATE=" + d.state(),
		"LIGHTER_CONFIG=" + d.config(),
	}
	for _, name := range []string{"PATH", "TERM", "NO_COLOR", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "GOCOVERDIR"} {
		if value := d.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func (d *demo) findTree(context.Context) error {
	t, err := findTree(d.Folder)
	if err != nil {
		return err
	}
	d.tree = t
	files := 0
	for _, u := range t.units {
		files += len(u.files)
	}
	d.say("This builds %s: %d parts, %d files.\n", t.name, len(t.units), files)
	return nil
}

// makeKeys makes the SSH key with which the head logs in to the machines, and the
// key with which it signs.
func (d *demo) makeKeys(ctx context.Context) error {
	if err := os.MkdirAll(d.config(), 0o755); err != nil {
		return err
	}
	key, err := sshtransport.LoadOrCreateHostKey(d.sshKey())
	if err != nil {
		return err
	}
	public := sshtransport.FormatHostKey(key.PublicKey()) + "\n"
	if err := os.WriteFile(d.sshKey()+".pub", []byte(public), 0o644); err != nil { //nolint:gosec // a public key
		return err
	}
	_, err = d.output(ctx, "key", "generate")
	return err
}

func (d *demo) startMachines(ctx context.Context) error {
	var started []*process
	for _, s := range specs {
		args := []string{
			"agent", "--listen", "127.0.0.1:0", "--name", s.name,
			"--state", filepath.Join(d.folder, s.name), "--authorized-keys", d.sshKey() + ".pub",
			"--authorize", filepath.Join(d.config(), "signing-key.pub"), "--log-level", "debug", "--log-format", "json",
		}
		for _, path := range sandboxPaths {
			if _, err := os.Stat(path); err == nil {
				args = append(args, "--sandbox-path", path)
			}
		}
		p, err := d.start(ctx, s.name, args...)
		if err != nil {
			return err
		}
		started = append(started, p)
	}
	var all []machines.Machine
	for i, p := range started {
		text, err := p.out.wait(ctx)
		if err != nil {
			return err
		}
		list, err := machines.ParseTOML(p.name+"'s own words", []byte(text))
		if err != nil || len(list) != 1 {
			return fmt.Errorf("%s did not start: %s", p.name, d.logTail(p.name))
		}
		m := list[0]
		m.PrivateKey = d.sshKey()
		m.Speed, m.ParallelBuilds, m.Features = specs[i].speed, specs[i].slots, specs[i].features
		// All of them share this computer's processors.
		m.OverloadThreshold = 0
		all = append(all, m)
		d.say("machine %-6s %s (process %d): %d slots, speed %g%s", m.Name, m.Addr(), p.cmd.Process.Pid,
			m.ParallelBuilds, m.Speed, withFeatures(m.Features))
	}
	return os.WriteFile(filepath.Join(d.config(), "machines.toml"), machines.FormatTOML(all), 0o644) //nolint:gosec // no secret
}

func withFeatures(features []string) string {
	if len(features) == 0 {
		return ""
	}
	return ", " + strings.Join(features, ", ")
}

// startTimeout is how long the coordinator may take to answer.
const startTimeout = 20 * time.Second

func (d *demo) startCoordinator(ctx context.Context) error {
	p, err := d.start(ctx, "coordinator", "coordinator", "--log-level", "debug", "--log-format", "json")
	if err != nil {
		return err
	}
	late := time.After(startTimeout)
	for {
		if _, err = d.output(ctx, "status"); err == nil {
			d.say("coordinator, process %d", p.cmd.Process.Pid)
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended at once: %s", d.logTail("coordinator"))
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return fmt.Errorf("it does not answer: %w; its log ends so:\n%s", err, d.logTail("coordinator"))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// authorizeMachines puts the keys with which the machines sign into the head's ACL.
// It fails where a machine cannot build.
func (d *demo) authorizeMachines(ctx context.Context) error {
	for _, s := range specs {
		if _, err := d.output(ctx, "machines", "authorize", "--yes", s.name); err != nil {
			return err
		}
	}
	if out, err := d.output(ctx, "machines", "test"); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

func (d *demo) addGraph(ctx context.Context) error {
	extracted := filepath.Join(d.folder, "source")
	if err := os.Mkdir(extracted, 0o755); err != nil {
		return err
	}
	folders, err := d.tree.extract(extracted)
	if err != nil {
		return err
	}
	out, err := d.output(ctx, append([]string{"store", "add"}, folders...)...)
	if err != nil {
		return err
	}
	var sources []store.Path
	for line := range strings.Lines(out) {
		path, err := store.DefaultDir.ParsePath(strings.TrimSpace(line))
		if err != nil {
			return err
		}
		sources = append(sources, path)
	}
	if len(sources) != len(folders) {
		return fmt.Errorf("%d items were added, want %d", len(sources), len(folders))
	}
	system, err := d.system()
	if err != nil {
		return err
	}
	if d.graph, err = newGraph(store.DefaultDir, system, d.tree.units, sources); err != nil {
		return err
	}
	text, err := derivation.MarshalJSON(d.graph.derivations)
	if err != nil {
		return err
	}
	file := filepath.Join(d.folder, "derivations.json")
	if err := os.WriteFile(file, text, 0o644); err != nil { //nolint:gosec // no secret
		return err
	}
	if _, err = d.output(ctx, "derivation", "add", file); err != nil {
		return err
	}
	d.say("%d source items and %d derivations are in the head's store.\n", len(sources), len(d.graph.derivations))
	return nil
}

// system is that of the machines, which is this computer's.
func (d *demo) system() (string, error) {
	list, err := machines.Load(filepath.Join(d.config(), "machines.toml"))
	if err != nil {
		return "", err
	}
	return list[0].Systems[0], nil
}

func (d *demo) build(ctx context.Context) error {
	d.say("$ lighter build %s", d.graph.release)
	var out strings.Builder
	if err := d.processes.run(ctx, &out, d.Err, "build", string(d.graph.release)); err != nil {
		return err
	}
	d.say("%s", strings.TrimSpace(out.String()))
	return nil
}

// builds returns the ledger's record of every build, oldest first.
func (d *demo) builds(ctx context.Context) ([]api.Build, error) {
	out, err := d.output(ctx, "builds", "list", "--json", "--limit", "0")
	if err != nil {
		return nil, err
	}
	var list []api.Build
	for dec := json.NewDecoder(strings.NewReader(out)); ; {
		var b api.Build
		if err := dec.Decode(&b); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, err
		}
		list = append(list, b)
	}
}
