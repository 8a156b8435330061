// Package made makes up builds as a farm has them that follows the commits of a distribution, to fill ledgers that
// benchmarks measure.
package made

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/store"
)

// Farm is one that follows the commits of a distribution.
type Farm struct {
	Builds int       // how many
	Begin  time.Time // when the first was submitted; each follows the one before by a second
	names  []string
}

// Machines is how many there are: machine0, machine1 and so on.
const Machines = 40

// perCommit is how many builds a commit causes.
const perCommit = 20_000

// New returns a farm with n builds. The same number and time make the same builds.
func New(n int, begin time.Time) *Farm {
	f := &Farm{Builds: n, Begin: begin}
	for i := range 30_000 {
		kind := []string{"rust", "rust", "rust", "python", "python", "r", "go", "perl", "emacs", "texlive", "lib"}[i%11]
		f.names = append(f.names, fmt.Sprintf("%s-package%d-%d.%d.%d", kind, i, i%5, i%13, i%7))
	}
	return f
}

var systems = []string{"x86_64-linux", "x86_64-linux", "aarch64-linux", "i686-linux", "aarch64-linux", "x86_64-linux", "powerpc64le-linux", "armhf-linux"}

// Time is when a build was submitted.
func (f *Farm) Time(i int) time.Time { return f.Begin.Add(time.Duration(i) * time.Second) }

// Commit is for which a build was submitted.
func (f *Farm) Commit(i int) string { return fmt.Sprintf("%040x", 1+i/perCommit) }

// Build returns a build at its end; the same one for the same number.
func (f *Farm) Build(i int) *api.Build {
	rng := rand.New(rand.NewPCG(uint64(i), 1)) // #nosec G115 -- a seed
	digits := func(n int) string {
		text := make([]byte, n)
		for i := range text {
			text[i] = "0123456789abcdfghijklmnpqrsvwxyz"[rng.IntN(32)]
		}
		return string(text)
	}
	name := f.names[rng.IntN(len(f.names))]
	submitted := f.Time(i)
	begun, ended := submitted.Add(time.Hour), submitted.Add(2*time.Hour)
	branch := "master"
	if i/perCommit%5 == 4 {
		branch = fmt.Sprint("team-", i/perCommit%7)
	}
	b := &api.Build{
		Request: api.Request{
			ID:         fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", rng.Uint32(), rng.IntN(1<<16), rng.IntN(1<<12), rng.IntN(1<<12), i),
			Derivation: store.Path("/gnu/store/" + digits(32) + "-" + name + ".drv"),
			Tags:       map[string]string{"branch": branch, "commit": f.Commit(i)},
		},
		System: systems[rng.IntN(len(systems))], State: api.Succeeded, Submitted: submitted, Started: &begun, Stopped: &ended,
		Attempt: 1, Machine: fmt.Sprint("machine", rng.IntN(Machines)), OutputPaths: make(map[string]store.Path),
		OutputSize: int64(rng.IntN(1 << 26)), SentBytes: int64(rng.IntN(1 << 24)), FetchBytes: int64(rng.IntN(1 << 24)), LogSize: int64(rng.IntN(1 << 18)),
		Hardware: &api.Hardware{CPU: "AMD EPYC 7543 32-Core Processor", Cores: 32, Memory: 128 << 30},
	}
	for _, output := range []string{"out", "doc", "lib"}[:1+rng.IntN(3)] {
		b.OutputPaths[output] = store.Path("/gnu/store/" + digits(32) + "-" + name + "-" + output)
	}
	switch n := rng.IntN(1000); {
	case i > f.Builds-2000 && i < f.Builds:
		b.State, b.Stopped = api.Building, nil
		if i > f.Builds-1000 {
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

// Block returns the changes that bring builds from their submission to where they are
// now, one list after the other.
func (f *Farm) Block(first, n int) [][]ledger.Change {
	states := []api.State{api.Queued, api.Placed, api.Sending, api.Building, api.Fetching, ""}
	block := make([][]ledger.Change, len(states))
	for i := first; i < first+n; i++ {
		last := f.Build(i)
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

// fillBlock is how many builds go through their states together, and fillers how many
// such blocks do so at the same time.
const fillBlock, fillers = 500, 4

// Fill makes the builds in a ledger, each with its whole history; not durable one by one.
func (f *Farm) Fill(ctx context.Context, l *ledger.Ledger) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(fillers)
	for first := 0; first < f.Builds && groupCtx.Err() == nil; first += fillBlock {
		group.Go(func() error {
			for _, changes := range f.Block(first, min(fillBlock, f.Builds-first)) {
				if _, err := l.Apply(groupCtx, changes, false); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}
