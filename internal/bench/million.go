package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
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
	"lighter/internal/ledger"
	"lighter/internal/testkit/farm"
	"lighter/store"
)

// benchMillion measures a ledger with as many builds as -builds says: what it takes, how
// long it starts, and how long everything that a person asks of it takes. It has no peer.
func benchMillion(ctx context.Context, b *bench) error {
	dir := filepath.Join(b.folder, "million")
	m := &million{bench: b, dir: dir, farm: newFakeFarm(b.builds)}
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
	farm *fakeFarm
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

// fillBlock is how many builds go through their states together, and fillers how many
// such blocks do so at the same time.
const fillBlock, fillers = 500, 4

// fill makes the builds, each with its whole history.
func (m *million) fill(ctx context.Context) error {
	begun := time.Now()
	err := m.with(func(l *ledger.Ledger) error {
		group, groupCtx := errgroup.WithContext(ctx)
		group.SetLimit(fillers)
		for first := 0; first < m.builds && groupCtx.Err() == nil; first += fillBlock {
			group.Go(func() error {
				for _, changes := range m.farm.block(first, min(fillBlock, m.builds-first)) {
					if _, err := l.Apply(groupCtx, changes, false); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return group.Wait()
	})
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
		for _, k := range m.farm.listings() {
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
		for _, k := range m.farm.listings() {
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
		drv := m.farm.build(m.builds - 1)
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
	some := m.farm.build(m.builds / 2)
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
					b := m.farm.build(m.builds + c*each + i)
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
		result, err := l.Prune(ctx, ledger.PruneOptions{Before: m.farm.time(m.builds / 2)}, func(b *api.Build, events []api.Event) error {
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

// fakeFarm makes up builds as a farm that follows the commits of a distribution has them.
type fakeFarm struct {
	builds int
	names  []string
}

// perCommit is how many builds a commit causes.
const perCommit = 20_000

func newFakeFarm(n int) *fakeFarm {
	f := &fakeFarm{builds: n}
	for i := range 30_000 {
		kind := []string{"rust", "rust", "rust", "python", "python", "r", "go", "perl", "emacs", "texlive", "lib"}[i%11]
		f.names = append(f.names, fmt.Sprintf("%s-package%d-%d.%d.%d", kind, i, i%5, i%13, i%7))
	}
	return f
}

var fakeSystems = []string{"x86_64-linux", "x86_64-linux", "aarch64-linux", "i686-linux", "aarch64-linux", "x86_64-linux", "powerpc64le-linux", "armhf-linux"}

// time is when a build was submitted; each follows the one before by a second.
func (f *fakeFarm) time(i int) time.Time {
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(i) * time.Second)
}

func (f *fakeFarm) commit(i int) string { return fmt.Sprintf("%040x", 1+i/perCommit) }

// build returns a build at its end; the same one for the same number.
func (f *fakeFarm) build(i int) *api.Build {
	rng := rand.New(rand.NewPCG(uint64(i), 1)) // #nosec G115 -- a seed
	digits := func(n int) string {
		text := make([]byte, n)
		for i := range text {
			text[i] = "0123456789abcdfghijklmnpqrsvwxyz"[rng.IntN(32)]
		}
		return string(text)
	}
	name := f.names[rng.IntN(len(f.names))]
	submitted := f.time(i)
	begun, ended := submitted.Add(time.Hour), submitted.Add(2*time.Hour)
	branch := "master"
	if i/perCommit%5 == 4 {
		branch = fmt.Sprint("team-", i/perCommit%7)
	}
	b := &api.Build{
		Request: api.Request{
			ID:         fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", rng.Uint32(), rng.IntN(1<<16), rng.IntN(1<<12), rng.IntN(1<<12), i),
			Derivation: store.Path("/gnu/store/" + digits(32) + "-" + name + ".drv"),
			Tags:       map[string]string{"branch": branch, "commit": f.commit(i)},
		},
		System: fakeSystems[rng.IntN(len(fakeSystems))], State: api.Succeeded, Submitted: submitted, Started: &begun, Stopped: &ended,
		Attempt: 1, Machine: fmt.Sprint("machine", rng.IntN(40)), OutputPaths: make(map[string]store.Path),
		OutputSize: int64(rng.IntN(1 << 26)), SentBytes: int64(rng.IntN(1 << 24)), FetchBytes: int64(rng.IntN(1 << 24)), LogSize: int64(rng.IntN(1 << 18)),
		Hardware: &api.Hardware{CPU: "AMD EPYC 7543 32-Core Processor", Cores: 32, Memory: 128 << 30},
	}
	for _, output := range []string{"out", "doc", "lib"}[:1+rng.IntN(3)] {
		b.OutputPaths[output] = store.Path("/gnu/store/" + digits(32) + "-" + name + "-" + output)
	}
	switch n := rng.IntN(1000); {
	case i > f.builds-2000 && i < f.builds:
		b.State, b.Stopped = api.Building, nil
		if i > f.builds-1000 {
			b.State = api.Queued
		}
	case n < 50:
		b.State, b.Reason = api.Failed, "the builder failed with exit code 1"
		b.Failure = &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Machine: b.Machine, Kind: "builder", ExitCode: 1, Message: "the builder failed with exit code 1"}
	case n < 55:
		b.State = api.TimedOut
	case n < 60:
		b.State = api.Canceled
	}
	return b
}

// block returns the changes that bring builds from their submission to where they are
// now, one list after the other.
func (f *fakeFarm) block(first, n int) [][]ledger.Change {
	states := []api.State{api.Queued, api.Placed, api.Sending, api.Building, api.Fetching, ""}
	block := make([][]ledger.Change, len(states))
	for i := first; i < first+n; i++ {
		last := f.build(i)
		for at, state := range states {
			b := *last
			if state == "" {
				state = last.State
			}
			b.State = state
			if !state.Final() {
				b.Stopped, b.OutputPaths, b.Failure, b.Reason, b.LogSize, b.FetchBytes = nil, nil, nil, "", 0, 0
			}
			if state == api.Queued {
				b.Machine, b.Started, b.Hardware, b.Attempt = "", nil, nil, 0
			}
			block[at] = append(block[at], ledger.Change{Build: &b, Create: at == 0})
			if state == last.State {
				break
			}
		}
	}
	return block
}

// listing is one kind of listing.
type listing struct {
	name        string
	filter      api.Filter
	oldestFirst bool
}

// listings are questions that people ask, and some that find little among many.
func (f *fakeFarm) listings() []listing {
	states := func(s ...api.State) api.Filter { return api.Filter{States: s} }
	tags := func(tags map[string]string) api.Filter { return api.Filter{Tags: tags} }
	middle := f.builds * 3 / 4
	some := f.build(middle)
	name := api.DerivationName(some.Derivation)
	commit := map[string]string{"commit": f.commit(middle)}
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
		{"since a day ago", api.Filter{Since: f.time(f.builds - 86_400)}, false},
		{"an hour long ago", api.Filter{Since: f.time(middle), Until: f.time(middle + 3600)}, false},
		{"a time with no builds", api.Filter{Until: f.time(-1)}, false},
		{"an old commit, failed", api.Filter{Tags: commit, States: []api.State{api.Failed}}, false},
		{"an old commit, system, failed, the oldest first", api.Filter{Tags: commit, System: "i686-linux", States: []api.State{api.Failed}}, true},
		{"a branch, an old commit that is not of it (none)", tags(map[string]string{"branch": "team-0", "commit": f.commit(middle)}), false},
		{"system, machine, timed out", api.Filter{System: "armhf-linux", Machine: "machine3", States: []api.State{api.TimedOut}}, false},
		{"rust-*, system, canceled", api.Filter{Name: "rust-*", System: "armhf-linux", States: []api.State{api.Canceled}}, false},
		{"rust-*, building, an old commit (none)", api.Filter{Name: "rust-*", States: []api.State{api.Building}, Tags: commit}, false},
	}
}
