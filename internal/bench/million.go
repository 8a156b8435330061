package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/bench/made"
	"lighter/internal/ledger"
	"lighter/internal/testkit/farm"
)

// benchMillion measures a ledger with as many builds as -builds says: what it takes, how
// long it starts, and how long everything that a person asks of it takes. It has no peer.
func benchMillion(ctx context.Context, b *bench) error {
	dir := filepath.Join(b.folder, "million")
	m := &million{bench: b, dir: dir, farm: made.New(b.builds, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))}
	for _, step := range []func(context.Context) error{m.fill, m.start, m.lists, m.commands, m.submissions, m.prune, m.start, m.lists} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// million is one run of benchMillion.
type million struct {
	*bench
	dir  string
	farm *made.Farm
	note string // behind what is measured, once half is pruned
}

func (m *million) row(what, format string, args ...any) {
	r := row{what + m.note, fmt.Sprintf(format, args...), "", ""}
	fmt.Fprintf(os.Stderr, "%s: %s\n", r.what, r.ours) // it takes long
	m.rows = append(m.rows, r)
}

func (m *million) with(fn func(l *ledger.Ledger) error) error {
	l, err := ledger.Open(m.dir, ledger.Options{})
	if err != nil {
		return err
	}
	return errors.Join(fn(l), l.Close())
}

// fill makes the builds, each with its whole history.
func (m *million) fill(ctx context.Context) error {
	begun := time.Now()
	err := m.with(func(l *ledger.Ledger) error { return m.farm.Fill(ctx, l) })
	if err != nil {
		return err
	}
	took := time.Since(begun)
	size, err := folderSize(m.dir)
	if err != nil {
		return err
	}
	m.row(fmt.Sprintf("%d builds with 6 events each, on disk", m.builds), "%d MiB, %d bytes a build", size>>20, size/int64(m.builds))
	m.row("filling it, not durable one by one", "%.0f builds / s", float64(m.builds)/took.Seconds())
	return nil
}

func folderSize(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}

// started is what a fresh process says of its start.
type started struct {
	Took    time.Duration
	RSS     int64 // bytes
	Heap    int64 // bytes, after a collection
	Builds  int
	Systems int
}

// start opens the ledger in processes of their own.
func (m *million) start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var took []time.Duration
	var last started
	for range m.runs {
		out, err := exec.CommandContext(ctx, self, "-million-start", m.dir).Output()
		if err != nil {
			return fmt.Errorf("start: %w", err)
		}
		if err := json.Unmarshal(out, &last); err != nil {
			return err
		}
		took = append(took, last.Took)
	}
	m.row("start", "%s, the longest %s", milliseconds(median(took)), milliseconds(took[len(took)-1]))
	m.row("memory after it: process, Go heap", "%d MiB, %d MiB", last.RSS>>20, last.Heap>>20)
	return nil
}

// startOnce is what the process of its own does.
func startOnce(dir string) error {
	begun := time.Now()
	l, err := ledger.Open(dir, ledger.Options{})
	if err != nil {
		return err
	}
	s := started{Took: time.Since(begun), Systems: len(l.SystemCounts())}
	for _, n := range l.Counts() {
		s.Builds += n
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	if found := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status); found != nil {
		kib, err := strconv.ParseInt(string(found[1]), 10, 64)
		if err != nil {
			return err
		}
		s.RSS = kib << 10
	}
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	s.Heap = int64(memory.HeapAlloc) // #nosec G115 -- of this process
	return errors.Join(json.NewEncoder(os.Stdout).Encode(s), l.Close())
}

// lists measures the first page of each kind of listing.
func (m *million) lists(ctx context.Context) error {
	return m.with(func(l *ledger.Ledger) error {
		var longest time.Duration
		for _, k := range listings(m.farm) {
			n := 0
			err := m.ask("first page, "+k.name, &longest, func() (err error) {
				n = 0
				for _, err := range l.Builds(ctx, ledger.Filter{Filter: k.filter, Limit: 100, OldestFirst: k.oldestFirst}) {
					if err != nil {
						return err
					}
					n++
				}
				return nil
			}, func() string { return fmt.Sprintf("%d builds", n) })
			if err != nil {
				return err
			}
		}
		for _, k := range listings(m.farm) {
			n := 0
			err := m.ask("count, "+k.name, &longest, func() error {
				counts, err := l.Count(ctx, &k.filter)
				if err != nil {
					return err
				}
				n = 0
				for _, in := range counts.States() {
					n += in
				}
				return nil
			}, func() string { return fmt.Sprintf("%d builds", n) })
			if err != nil {
				return err
			}
		}
		drv := m.farm.Build(m.builds - 1)
		err := m.ask("builds of an output", &longest, func() error {
			_, err := l.ByOutput(ctx, drv.OutputPaths["out"])
			return err
		}, nil)
		if err != nil {
			return err
		}
		err = m.ask("builds by the start of an id", &longest, func() error {
			_, err := l.ByPrefix(ctx, drv.ID[:6], 2)
			return err
		}, nil)
		m.row("the longest of all these", "%s", milliseconds(longest))
		return err
	})
}

// asks is how often each question is asked.
const asks = 15

func (m *million) ask(what string, longest *time.Duration, question func() error, found func() string) error {
	var took []time.Duration
	for range asks {
		begun := time.Now()
		if err := question(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		took = append(took, time.Since(begun))
	}
	middle := median(took)
	most := took[len(took)-1]
	*longest = max(*longest, most)
	text := ""
	if found != nil {
		text = ", " + found()
	}
	m.row(what, "%s, the longest %s%s", milliseconds(middle), milliseconds(most), text)
	return nil
}

// commands measures a coordinator with that ledger and no machines, as a person at a
// terminal sees it: each command is a process of its own.
func (m *million) commands(ctx context.Context) error {
	f, err := farm.New(ctx, m.folder, lighterProgram)
	if err != nil {
		return err
	}
	defer stopFarm(f)
	moved := filepath.Join(f.State, "ledger")
	if err := errors.Join(os.Rename(m.dir, moved), os.WriteFile(filepath.Join(f.Config, "machines.toml"), nil, 0o600)); err != nil {
		return err
	}
	m.dir = moved
	begun := time.Now()
	if err := f.StartCoordinator(ctx); err != nil {
		return err
	}
	m.row("a coordinator, from its start to its first answer", "%s", milliseconds(time.Since(begun)))
	var longest time.Duration
	some := m.farm.Build(m.builds / 2)
	for _, args := range [][]string{
		{"status"},
		{"builds", "list"},
		{"builds", "list", "--state", "failed", "--name", "rust-*"},
		{"builds", "list", "--tag", "commit=" + some.Tags["commit"], "--json"},
		{"builds", "show", some.ID},
	} {
		err := m.ask("lighter "+strings.Join(args, " "), &longest, func() error {
			if out, err := f.Lighter(ctx, args...).CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}, nil)
		if err != nil {
			return err
		}
	}
	peak, err := farm.Figure(f.Coordinator().Pid, "VmHWM")
	m.row("its memory at most", "%d MiB", peak>>20)
	return err
}

// submissions measures durable submissions from many clients at that size.
func (m *million) submissions(ctx context.Context) error {
	const clients, each = 64, 400
	return m.with(func(l *ledger.Ledger) error {
		begun := time.Now()
		group, groupCtx := errgroup.WithContext(ctx)
		for c := range clients {
			group.Go(func() error {
				for i := range each {
					b := m.farm.Build(m.builds + c*each + i)
					b.State, b.Machine, b.OutputPaths, b.Stopped, b.Started = api.Queued, "", nil, nil, nil
					if _, err := l.Apply(groupCtx, []ledger.Change{{Build: b, Create: true}}, true); err != nil {
						return err
					}
				}
				return nil
			})
		}
		err := group.Wait()
		m.row("submissions, durable, 64 clients", "%.0f / s", clients*each/time.Since(begun).Seconds())
		return err
	})
}

// prune removes the older half, while others write.
func (m *million) prune(ctx context.Context) error {
	before, err := folderSize(m.dir)
	if err != nil {
		return err
	}
	err = m.with(func(l *ledger.Ledger) error {
		writing, stop := context.WithCancel(ctx)
		defer stop()
		var waits []time.Duration
		var group errgroup.Group
		group.Go(func() error {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-writing.Done():
					return nil
				case <-tick.C:
				}
				begun := time.Now()
				if _, err := l.Apply(ctx, []ledger.Change{{Setting: &ledger.Setting{Name: "bench", Value: len(waits)}}}, true); err != nil {
					return err
				}
				waits = append(waits, time.Since(begun))
			}
		})
		begun := time.Now()
		var archive bytes.Buffer
		result, err := l.Prune(ctx, ledger.PruneOptions{Before: m.farm.Time(m.builds / 2)}, func(b *api.Build, events []api.Event) error {
			archive.Reset() // what is measured is the ledger
			encoder := json.NewEncoder(&archive)
			return errors.Join(encoder.Encode(b), encoder.Encode(events))
		})
		took := time.Since(begun)
		stop()
		if err := errors.Join(err, group.Wait()); err != nil {
			return err
		}
		m.row(fmt.Sprintf("pruning %d builds and %d events", result.Builds, result.Events), "%.0f s", took.Seconds())
		middle := median(waits)
		m.row("a durable change meanwhile", "%s, the longest %s", milliseconds(middle), milliseconds(waits[len(waits)-1]))
		return nil
	})
	if err != nil {
		return err
	}
	after, err := folderSize(m.dir)
	if err != nil {
		return err
	}
	m.row("on disk before it and after it", "%d MiB, %d MiB", before>>20, after>>20)
	m.note = " (half pruned)"
	return nil
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }

// listing is one kind of listing.
type listing struct {
	name        string
	filter      api.Filter
	oldestFirst bool
}

// listings are questions that people ask, and some that find little among many.
func listings(f *made.Farm) []listing {
	states := func(s ...api.State) api.Filter { return api.Filter{States: s} }
	tags := func(tags map[string]string) api.Filter { return api.Filter{Tags: tags} }
	middle := f.Builds * 3 / 4
	some := f.Build(middle)
	name := api.DerivationName(some.Derivation)
	commit := map[string]string{"commit": f.Commit(middle)}
	return []listing{
		{"all", api.Filter{}, false},
		{"all, the oldest first", api.Filter{}, true},
		{"state: succeeded", states(api.Succeeded), false},
		{"state: queued", states(api.Queued), false},
		{"state: sending (none)", states(api.Sending), false},
		{"states: failed, timed out, canceled", states(api.Failed, api.TimedOut, api.Canceled), false},
		{"tag: branch", tags(map[string]string{"branch": "master"}), false},
		{"tag: an old commit", tags(commit), false},
		{"tag: none has it", tags(map[string]string{"none": ""}), false},
		{"not a tag: branch", api.Filter{NotTags: map[string]string{"branch": "master"}}, false},
		{"not a tag: all have it", api.Filter{NotTags: map[string]string{"commit": ""}}, false},
		{"system: rare", api.Filter{System: "armhf-linux"}, false},
		{"system: none", api.Filter{System: "riscv64-linux"}, false},
		{"machine", api.Filter{Machine: "machine7"}, false},
		{"derivation", api.Filter{Derivation: some.Derivation}, false},
		{"name", api.Filter{Name: name}, false},
		{"name: lib-* (9 %)", api.Filter{Name: "lib-*"}, false},
		{"name: rust-* (27 %)", api.Filter{Name: "rust-*"}, false},
		{"name: none*", api.Filter{Name: "none*"}, false},
		{"since a day ago", api.Filter{Since: f.Time(f.Builds - 86_400)}, false},
		{"an hour long ago", api.Filter{Since: f.Time(middle), Until: f.Time(middle + 3600)}, false},
		{"a time with no builds", api.Filter{Until: f.Time(-1)}, false},
		{"an old commit, failed", api.Filter{Tags: commit, States: []api.State{api.Failed}}, false},
		{"an old commit, system, failed, the oldest first", api.Filter{Tags: commit, System: "i686-linux", States: []api.State{api.Failed}}, true},
		{"a branch, an old commit that is not of it (none)", tags(map[string]string{"branch": "team-0", "commit": f.Commit(middle)}), false},
		{"system, machine, timed out", api.Filter{System: "armhf-linux", Machine: "machine3", States: []api.State{api.TimedOut}}, false},
		{"rust-*, system, canceled", api.Filter{Name: "rust-*", System: "armhf-linux", States: []api.State{api.Canceled}}, false},
		{"rust-*, building, an old commit (none)", api.Filter{Name: "rust-*", States: []api.State{api.Building}, Tags: commit}, false},
	}
}
