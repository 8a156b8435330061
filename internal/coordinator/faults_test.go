package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/conduct"
	"lighter/internal/coordinator/peer"
	"lighter/internal/coordinator/reply"
	"lighter/internal/ledger"
	"lighter/internal/machinetest"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/store/storetest"
)

func TestLinkLostWhileBuilding(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	id := f.submit(f.drv("one", "log=before hold log=after"))[0]
	b := f.awaitState(id, api.Building)
	a := f.agents[b.Machine]
	<-a.held
	a.cutLink(true)
	f.await(id, func(b *api.Build) bool { return strings.Contains(b.Reason, "lost, reconnecting") })
	a.release("one")
	a.up()
	b = f.awaitState(id, api.Succeeded)
	if b.Attempt != 1 || a.count("one") != 1 {
		t.Errorf("attempt %d, built %d times; want the build to go on", b.Attempt, a.count("one"))
	}
	var log strings.Builder
	if err := f.c.WriteLog(t.Context(), &log, b); err != nil || log.String() != "before\nafter\n" {
		t.Errorf("log %q, %v", log.String(), err)
	}
	f.idle()
}

// TestMachineHangs has a machine whose connections stay open and carry nothing.
func TestMachineHangs(t *testing.T) {
	f := newFarm(t, func(c *Config) {
		c.Limits.PollInterval, c.Limits.ContactTimeout, c.Limits.ConnectTimeout = 10*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	}, "m1")
	id := f.submit(f.drv("one", "hold"))[0]
	f.awaitState(id, api.Building)
	f.agents["m1"].set(func(a *fakeAgent) { a.hang = true })
	f.await(id, func(b *api.Build) bool { return strings.Contains(b.Reason, "does not answer") })
	f.agents["m1"].release("one")
	f.agents["m1"].set(func(a *fakeAgent) { a.hang = false })
	if b := f.awaitState(id, api.Succeeded); b.Attempt != 1 {
		t.Errorf("it took %d attempts", b.Attempt)
	}
	f.idle()
}

func TestAgentRestartLosesBuild(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	id := f.submit(f.drv("one", "hold"))[0]
	b := f.awaitState(id, api.Building)
	<-f.agents[b.Machine].held
	f.agents[b.Machine].restart()
	b2 := f.await(id, func(b *api.Build) bool { return b.Attempt == 2 && b.State == api.Building })
	if b2.Machine == b.Machine || b2.Failure == nil || b2.Failure.Culprit != api.CulpritMachine {
		t.Errorf("second attempt on %s after %+v, want it elsewhere", b2.Machine, b2.Failure)
	}
	f.agents["m1"].release("one")
	f.agents["m2"].release("one")
	f.awaitState(id, api.Succeeded)
	f.idle()
}

func TestMachineLost(t *testing.T) {
	f := newFarm(t, func(c *Config) { c.Limits.MachineLostAfter = 100 * time.Millisecond }, "m1", "m2")
	id := f.submit(f.drv("one", "hold"))[0]
	b := f.awaitState(id, api.Building)
	f.agents[b.Machine].cutLink(true)
	f.await(id, func(b *api.Build) bool { return b.Attempt == 2 && b.State == api.Building })
	f.agents["m1"].release("one")
	f.agents["m2"].release("one")
	done := f.awaitState(id, api.Succeeded)
	if done.Machine == b.Machine {
		t.Errorf("built on %s, which was lost", done.Machine)
	}
	f.agents[b.Machine].up()
	f.idle() // the lost machine is told to forget its attempt when it is back
}

func TestMachineDownAtStart(t *testing.T) {
	g := newFarm(t, nil, "m1")
	g.shutDown()
	g.agents["m1"].cutLink(true)
	g.start()
	id := g.submit(g.drv("one", ""))[0]
	g.awaitState(id, api.Queued)
	var why *api.Why
	for why == nil || len(why.Machines) == 0 || why.Machines[0].Rule != "available" || !strings.Contains(why.Machines[0].Actual, "refused") {
		if err := g.c.do(t.Context(), func(l *loop) { why = l.builds[id].task.why(l, l.builds[id]) }); err != nil {
			t.Fatal(err)
		}
	}
	g.agents["m1"].up()
	g.awaitState(id, api.Succeeded)
	g.idle()
}

func TestRetryElsewhere(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	id := f.submit(f.drv("one", "machine=m1"))[0]
	other := f.submit(f.drv("other", "machine=m2"))[0]
	for id, want := range map[string]string{id: "m2", other: "m1"} {
		if b := f.awaitState(id, api.Succeeded); b.Machine != want || b.Attempt > 2 {
			t.Errorf("built on %s in attempt %d, want %s", b.Machine, b.Attempt, want)
		}
	}
	f.idle()
}

func TestGivesUpAfterManyAttempts(t *testing.T) {
	f := newFarm(t, func(c *Config) { c.Limits.MaxAttempts = 4 }, "m1", "m2")
	b := f.awaitState(f.submit(f.drv("one", "machine"))[0], api.Failed)
	if b.Attempt != 4 || b.Failure.Culprit != api.CulpritMachine ||
		!strings.Contains(b.Failure.Message, "m1") || !strings.Contains(b.Failure.Message, "m2") ||
		!strings.Contains(b.Failure.Message, "no space left on device") {
		t.Errorf("got attempt %d, %+v", b.Attempt, b.Failure)
	}
	f.idle()
}

func TestCorruptArchiveIsRefused(t *testing.T) {
	f := newFarm(t, func(c *Config) { c.Limits.MaxAttempts = 2 }, "m1")
	drv := f.drv("one", "")
	f.agents["m1"].mu.Lock()
	f.agents["m1"].archive = func(archive []byte) []byte {
		archive[len(archive)/3] ^= 1
		return archive
	}
	f.agents["m1"].mu.Unlock()
	b := f.awaitState(f.submit(drv)[0], api.Failed)
	if b.Failure.Culprit != api.CulpritMachine || b.Failure.Machine != "m1" || !strings.Contains(b.Failure.Message, string(f.output(drv))) {
		t.Errorf("got %+v, want a failure that names m1 and %s", b.Failure, f.output(drv))
	}
	if f.valid(f.output(drv)) {
		t.Error("the output is valid at home")
	}
	f.idle()
}

func TestTruncatedArchive(t *testing.T) {
	f := newFarm(t, nil, "m1")
	drv := f.drv("one", "")
	cuts := 2
	f.agents["m1"].mu.Lock()
	f.agents["m1"].archive = func(archive []byte) []byte {
		if cuts--; cuts >= 0 {
			return archive[:len(archive)/2]
		}
		return archive
	}
	f.agents["m1"].mu.Unlock()
	f.awaitState(f.submit(drv)[0], api.Succeeded)
	f.idle()
}

func TestUnauthorizedMachineGetsNothing(t *testing.T) {
	var empty signature.ACL
	f := newFarm(t, func(c *Config) { c.ACL = func() (*signature.ACL, error) { return &empty, nil } }, "m1")
	id := f.submit(f.drv("one", ""))[0]
	var status *api.Status
	for status == nil || status.Machines[0].State != api.MachineUntrusted {
		var err error
		if status, err = f.c.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if want := "lighter machines authorize m1"; !strings.Contains(status.Machines[0].Error, want) {
		t.Errorf("got %q, want it to say %q", status.Machines[0].Error, want)
	}
	if b := f.awaitState(id, api.Queued); b.Attempt != 0 {
		t.Errorf("it was tried there: %+v", b)
	}
}

func TestMachineProblems(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*agentapi.Machine)
		want   string
		state  api.MachineState
	}{
		"protocol": {func(m *agentapi.Machine) { m.Protocol++ }, "speaks protocol", api.MachineUnfit},
		"store":    {func(m *agentapi.Machine) { m.StoreDir = "/nix/store" }, "its store is /nix/store", api.MachineUnfit},
		"build":    {func(m *agentapi.Machine) { m.BuildProblem = "no user namespaces" }, "no user namespaces", api.MachineUnfit},
		"head":     {func(m *agentapi.Machine) { m.AcceptsKeys = []string{"SHA256:another"} }, "does not accept the head's key SHA256:", api.MachineUntrusted},
		"key":      {func(m *agentapi.Machine) { m.PublicKey = "(" }, "public key cannot be read", api.MachineUntrusted},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFarm(t, func(c *Config) { c.Limits.RetryMin = time.Hour }, "m1")
			f.agents["m1"].mu.Lock()
			f.agents["m1"].info = c.change
			f.agents["m1"].mu.Unlock()
			f.shutDown()
			f.start()
			trial, err := f.c.TestMachine(t.Context(), "m1")
			if err != nil {
				t.Fatal(err)
			}
			if trial.OK {
				t.Errorf("the test found nothing: %+v", trial.Steps)
			}
			m := f.machine("m1")
			m.peer.Wake()
			var got string
			for got == "" {
				if err := f.c.do(t.Context(), func(l *loop) { got = m.problem }); err != nil {
					t.Fatal(err)
				}
			}
			if s := f.statusOf("m1"); s.State != c.state || s.Error != got {
				t.Errorf("its state is %s, %s; want %s, %s", s.State, s.Error, c.state, got)
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("got problem %q, want %q in it", got, c.want)
			}
		})
	}
}

func TestMachineTrial(t *testing.T) {
	f := newFarm(t, nil, "m1")
	trial, err := f.c.TestMachine(t.Context(), "m1")
	if err != nil || !trial.OK || trial.Steps[len(trial.Steps)-1].Name != machinetest.StepPlace {
		t.Errorf("got %+v, %v; want only steps that are right", trial, err)
	}
	// A machine is good if a build would be placed there now.
	for why, c := range map[string]struct {
		change func(l *loop, m *machine)
		fix    string
	}{
		"paused: lunch":   {func(l *loop, _ *machine) { l.pause = conduct.Pause{Paused: true, Reason: "lunch"} }, "lighter coordinator resume"},
		"draining: disk":  {func(l *loop, m *machine) { m.drain(l, "", "disk") }, "lighter machines resume m1"},
		"in quarantine ":  {func(l *loop, m *machine) { m.quarantine(l, "bad memory") }, "lighter builds list --state failed --machine m1; then: lighter machines resume m1"},
		"its disk is bad": {func(_ *loop, m *machine) { m.admission.Refuses, m.admission.Since = "its disk is bad", m.c.now() }, ""},
	} {
		m := f.machine("m1")
		if err := f.c.do(t.Context(), func(l *loop) { c.change(l, m) }); err != nil {
			t.Fatal(err)
		}
		trial, err := f.c.TestMachine(t.Context(), "m1")
		if err != nil {
			t.Fatal(err)
		}
		last := trial.Steps[len(trial.Steps)-1]
		if trial.OK || last.Name != machinetest.StepPlace || !strings.HasPrefix(last.Detail, why) || !strings.HasSuffix(last.Fix, c.fix) {
			t.Errorf("%s: got %+v", why, trial)
		}
		if err := f.c.do(t.Context(), func(l *loop) {
			l.pause, m.admission.Refuses = conduct.Pause{}, ""
			m.resume(l, "", "")
		}); err != nil {
			t.Fatal(err)
		}
	}
	f.agents["m1"].cutLink(true)
	if trial, err := f.c.TestMachine(t.Context(), "m1"); err != nil || trial.OK || trial.Steps[len(trial.Steps)-1].Fix == "" {
		t.Errorf("got %+v, %v; want an agent that is not reached, and what to do", trial, err)
	}
	f.agents["m1"].up()
}

func TestLateReportIsNotBelieved(t *testing.T) {
	f := newFarm(t, nil, "m1")
	id := f.submit(f.drv("one", "hold"))[0]
	f.awaitState(id, api.Building)
	err := f.c.do(t.Context(), func(l *loop) {
		current := l.builds[id].task.underWay
		a := &attempt{Attempt: current.Attempt, task: current.task, machine: current.machine}
		a.ended(l, nil, &api.Failure{Culprit: api.CulpritDerivation, Message: "late"})
		if l.builds[id] == nil || l.builds[id].task.underWay != current {
			t.Error("the late report ended the build")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	f.agents["m1"].release("one")
	f.awaitState(id, api.Succeeded)
	f.idle()
}

func TestLinkCutWhileSendingAndFetching(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, nil, "m1")
		f.shutDown()
		overHTTP(f)(&f.config)
		f.start()
		a := f.agents["m1"]
		var imports, exports int
		a.set(func(a *fakeAgent) {
			a.onImport = func(context.Context) {
				if imports++; imports <= 3 {
					a.cutLink(false)
				}
			}
			a.onExport = func(context.Context) {
				if exports++; exports <= 3 {
					a.cutLink(false)
				}
			}
		})
		b := f.awaitState(f.submit(f.drv("one", ""))[0], api.Succeeded)
		if b.Attempt != 1 || a.count("one") != 1 {
			t.Errorf("attempt %d, built %d times; want the transfers to be tried again, not the build", b.Attempt, a.count("one"))
		}
		f.idle()
	})
}

func TestMachineRefusesHeadsKey(t *testing.T) {
	f := newFarm(t, func(c *Config) { c.Limits.MaxAttempts = 2 }, "m1")
	key := newKey(t)
	acl := &signature.ACL{}
	acl.Add(key.Public())
	f.agents["m1"].set(func(a *fakeAgent) { a.store = storetest.NewMemory(a.store.Dir(), key, acl) })
	b := f.awaitState(f.submit(f.drv("one", ""))[0], api.Failed)
	if b.Failure.Culprit != api.CulpritMachine || !strings.Contains(b.Failure.Message, "--authorize") ||
		!strings.Contains(b.Failure.Message, "source-of-one") {
		t.Errorf("got %+v, want a failure that names the item and what to do", b.Failure)
	}
	if trial, err := f.c.TestMachine(t.Context(), "m1"); err != nil || trial.OK || trial.Steps[len(trial.Steps)-1].Name != "send" {
		t.Errorf("trial: %+v, %v; want it to fail in sending", trial, err)
	}
	f.idle()
}

// TestHeadStoreFails has the head's store refuse what comes home: the outputs stay on
// the machine, and are fetched when it takes them again.
func TestHeadStoreFails(t *testing.T) {
	failing := &failingStore{}
	f := newFarm(t, func(c *Config) {
		failing.Memory = c.Store.(*storetest.Memory)
		failing.left = 3
		c.Store = failing
	}, "m1")
	b := f.awaitState(f.submit(f.drv("one", ""))[0], api.Succeeded)
	if n := f.agents["m1"].count("one"); n != 1 || b.Failure != nil {
		t.Errorf("built %d times, failure %+v; want once and none", n, b.Failure)
	}
	f.idle()
}

func TestLedgerWithoutRoom(t *testing.T) {
	f := unstarted(t)
	drv := f.drv("one", "")
	full, err := ledger.Open(filepath.Join(f.dir, "ledger"), ledger.Options{MinFree: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	f.config.Ledger = full
	c, err := New(f.config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	_, err = c.Submit(ctx, []api.Request{{Derivation: drv}}, nil)
	if !errors.Is(err, ledger.ErrDiskFull) || reply.Of(err).Code != api.CodeDiskFull {
		t.Errorf("got %v, want a full disk", err)
	}
}

// TestLedgerFails has the disk fail under the ledger: the coordinator ends with the
// reason, rather than to live on without a memory. (A ledger that has failed leaves goroutines.)
func TestLedgerFails(t *testing.T) {
	f := unstarted(t)
	drv := f.drv("one", "")
	var failing atomic.Bool
	disk := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if failing.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.EIO
		}
		return nil
	}))
	broken, err := ledger.Open("ledger", ledger.Options{FS: disk, MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	f.config.Ledger = broken
	c, err := New(f.config)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- c.Run(context.Background()) }()
	if _, err := c.Submit(t.Context(), []api.Request{{Derivation: drv}}, nil); err != nil {
		t.Fatal(err)
	}
	failing.Store(true)
	if _, err := c.Submit(t.Context(), []api.Request{{Derivation: drv}}, nil); !errors.Is(err, ledger.ErrFailed) {
		t.Errorf("submit: %v, want a failed ledger", err)
	}
	if err := <-over; !errors.Is(err, ledger.ErrFailed) || !errors.Is(err, syscall.EIO) {
		t.Errorf("run: %v, want a failed ledger", err)
	}
	if err := broken.Close(); !errors.Is(err, ledger.ErrFailed) {
		t.Errorf("close: %v", err)
	}
}

// TestIdleMachineIsNoticed breaks the rule that the loop places whenever something
// changed: the safety net starts the build, and says that this is a bug.
func TestIdleMachineIsNoticed(t *testing.T) {
	var log lockedBuffer
	f := newFarm(t, func(c *Config) {
		c.Limits.IdleAlarm = 20 * time.Millisecond
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	}, "m1")
	m := f.machine("m1")
	drain := func(why string) func(*loop) { return func(*loop) { m.problem = why } }
	for up := false; !up; {
		if err := f.c.do(t.Context(), func(l *loop) { up = m.state == api.MachineUp }); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.c.do(t.Context(), drain("draining")); err != nil {
		t.Fatal(err)
	}
	id := f.submit(f.drv("one", ""))[0]
	for waited := false; !waited; {
		if err := f.c.do(t.Context(), func(l *loop) {
			waited = l.queue.Len() == 1 && time.Since(l.builds[id].task.queuedAt) > 50*time.Millisecond
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.c.do(t.Context(), drain("")); err != nil {
		t.Fatal(err)
	}
	f.awaitState(id, api.Succeeded)
	if !strings.Contains(log.String(), "this is a bug") {
		t.Errorf("the log does not say it:\n%s", log.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestSilentStreamsClosed has a machine whose sshd closes what is silent for a while: a long build
// without a word goes on, is told once, and needs no other attempt.
func TestSilentStreamsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, nil, "m1")
		f.shutDown()
		f.config.NewAgent = func(machines.Machine) peer.Agent { return closesSilent{f.agents["m1"]} }
		f.start()
		id := f.submit(f.drv("one", "log=before hold log=after"))[0]
		f.awaitState(id, api.Building)
		<-f.agents["m1"].held
		time.Sleep(10 * time.Minute)
		f.agents["m1"].release("one")
		b := f.awaitState(id, api.Succeeded)
		var log strings.Builder
		if err := f.c.WriteLog(t.Context(), &log, b); err != nil || log.String() != "before\nafter\n" || b.Attempt != 1 {
			t.Errorf("attempt %d, log %q, %v", b.Attempt, log.String(), err)
		}
		if got := f.history(id); strings.Count(got, "ChannelTimeout") != 1 || strings.Contains(got, "lost") {
			t.Errorf("history:\n%s", got)
		}
		f.idle()
	})
}

// closesSilent ends each stream of a log after three seconds, as if it had been cut.
type closesSilent struct{ *fakeAgent }

func (c closesSilent) Log(ctx context.Context, asked *agentapi.Asked, offset int64, w io.Writer) (*agentapi.BuildStatus, error) {
	limited, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	status, err := c.fakeAgent.Log(limited, asked, offset, w)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("log of build %s: %w", asked.ID, io.ErrUnexpectedEOF)
	}
	return status, err
}
