package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"lighter/internal/testkit/farm"
	"lighter/machines"
	"lighter/store"
)

// benchFarm builds 1,000 trivial derivations on two machines with 4 slots each: agents
// behind lighter's own SSH server, a coordinator, and a client, all on this machine.
func benchFarm(ctx context.Context, b *bench) error {
	const builds = 1000
	f, err := startFarm(ctx, b.folder, "m1", "m2")
	if err != nil {
		return err
	}
	defer stopFarm(f)
	var times []time.Duration
	for i := range b.runs {
		var list bytes.Buffer
		for n := range builds {
			path, err := f.Add(ctx, farm.Recipe{Name: fmt.Sprintf("trivial-%d-%d", i, n), Script: "echo hello > $out"})
			if err != nil {
				return err
			}
			fmt.Fprintln(&list, path)
		}
		start := time.Now()
		if err := build(ctx, f, &list); err != nil {
			return err
		}
		times = append(times, time.Since(start))
	}
	rate := builds / median(times).Seconds()
	bare, err := bareNamespaces(ctx, builds)
	if err != nil {
		return err
	}
	b.rows = append(b.rows, row{
		"1,000 trivial builds, 2 machines with 4 slots (bare `unshare … sh`, 8 at a time)",
		fmt.Sprintf("%.0f / s", rate), fmt.Sprintf("%.0f / s", bare), fmt.Sprintf("%.2f (aim: 100 / s)", rate/bare),
	})
	return nil
}

// benchSubmission submits derivations that nothing builds, from one list, twice: the
// second time they are there already, as after an interruption.
func benchSubmission(ctx context.Context, b *bench) error {
	const builds = 20_000
	f, err := startFarm(ctx, b.folder)
	if err != nil {
		return err
	}
	defer stopFarm(f)
	var list bytes.Buffer
	for n := range builds {
		path, err := f.Add(ctx, farm.Recipe{Name: fmt.Sprintf("submitted-%d", n), Script: "echo hello > $out"})
		if err != nil {
			return err
		}
		fmt.Fprintln(&list, path)
	}
	for _, what := range []string{"derivations submitted from a list", "the same list again"} {
		cmd := f.Lighter(ctx, "build", "--detach", "--quiet", "--submission", "bench", "-")
		cmd.Stdin = bytes.NewReader(list.Bytes())
		start := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("lighter build: %w: %s", err, out)
		}
		b.rows = append(b.rows, row{what, fmt.Sprintf("%.0f / s", builds/time.Since(start).Seconds()), "", ""})
	}
	return nil
}

// bareNamespaces returns how many shells a second start and end in namespaces like a
// build's, eight at a time: how fast this machine is at what builds cannot do without.
func bareNamespaces(ctx context.Context, n int) (float64, error) {
	cmd := exec.CommandContext(ctx, "xargs", "-P8", "-I{}", "unshare", "-Urmpinuf", "--mount-proc", "sh", "-c", "echo hello > /dev/null")
	cmd.Stdin = strings.NewReader(strings.Repeat("x\n", n))
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("unshare: %w: %s", err, out)
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// benchMemory sends an item of 4 GiB to a machine and fetches a copy of it.
func benchMemory(ctx context.Context, b *bench) error {
	f, err := startFarm(ctx, b.folder, "m1")
	if err != nil {
		return err
	}
	defer stopFarm(f)
	file := filepath.Join(b.folder, "four")
	if err := writeRandom(file, 4<<30); err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(packInto(w, file)) }()
	source, err := f.Head().AddNAR(ctx, "four", r)
	if err := errors.Join(err, os.Remove(file)); err != nil {
		return err
	}
	path, err := f.Add(ctx, farm.Recipe{Name: "copy", Sources: []store.Path{source}, Script: "cp " + string(source) + " $out"})
	if err != nil {
		return err
	}
	if err := build(ctx, f, strings.NewReader(string(path)+"\n")); err != nil {
		return err
	}
	peak, err := farm.Figure(f.Coordinator().Pid, "VmHWM")
	if err != nil {
		return err
	}
	mib := float64(peak) / (1 << 20)
	b.rows = append(b.rows, row{"coordinator's peak memory, 4 GiB sent and fetched", fmt.Sprintf("%.0f MiB", mib), "aim: 100 MiB", fmt.Sprintf("%.2f", 100/mib)})
	return nil
}

// startFarm starts a coordinator, and machines of the given names.
func startFarm(ctx context.Context, folder string, names ...string) (*farm.Farm, error) {
	f, err := farm.New(ctx, folder, lighterProgram)
	if err != nil {
		return nil, err
	}
	if err := startMachines(ctx, f, names); err != nil {
		return nil, errors.Join(err, f.Stop())
	}
	return f, nil
}

// lighterProgram is what "make build" makes.
const lighterProgram = "build/lighter"

func startMachines(ctx context.Context, f *farm.Farm, names []string) error {
	key := filepath.Join(f.Config, "ssh-key")
	if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		return fmt.Errorf("ssh-keygen: %w: %s", err, out)
	}
	var list []machines.Machine
	for _, name := range names {
		m, err := f.StartMachine(ctx, name, key)
		if err != nil {
			return err
		}
		list = append(list, *m)
	}
	return f.Start(ctx, machines.FormatTOML(list), names...)
}

func stopFarm(f *farm.Farm) {
	if err := f.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

// build builds what a list names, and waits for it.
func build(ctx context.Context, f *farm.Farm, list io.Reader) error {
	cmd := f.Lighter(ctx, "build", "--quiet", "-")
	cmd.Stdin = list
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("lighter build: %w: %s", err, stderr.String())
	}
	return nil
}
