package coordinator

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/scheduler/estimate"
	"lighter/store"
	"lighter/store/derivation"
)

// TestMeasuredIsKept has an agent say what builds used: it is in their records, the next version
// of the package is expected to need as much, and machines learn speed from packages alone.
func TestMeasuredIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, nil, "m1")
		f.ready("m1")
		used := store.Measured{CPU: 12, PeakMemory: 1 << 30, Disk: 1 << 20, Method: store.MeasuredCgroup, Unmeasured: "the disk, in part"}
		f.agents["m1"].set(func(a *fakeAgent) {
			a.info = func(m *agentapi.Machine) { m.Hardware.Cores = 4 }
			a.lie = func(s *agentapi.BuildStatus) {
				if s.State == agentapi.Succeeded || s.State == agentapi.Failed {
					s.Measured = &used
				}
			}
		})
		fixed := func(digit string) *derivation.Derivation {
			return &derivation.Derivation{System: "x86_64-linux", Outputs: []derivation.Output{{Name: "out", HashAlgorithm: "sha256", Hash: strings.Repeat(digit, 64)}}}
		}
		build := func(drv store.Path, took time.Duration) *api.Build {
			id := f.submit(drv)[0]
			<-f.agents["m1"].held
			time.Sleep(took)
			f.releaseAll(strings.TrimSuffix(drv.Name(), ".drv"))
			return f.await(id, func(b *api.Build) bool { return b.BuildTime > 0 || b.State.Final() })
		}
		learnt := func() (samples int) {
			if err := f.c.do(t.Context(), func(l *loop) { samples = l.byName["m1"].speed.Samples }); err != nil {
				t.Fatal(err)
			}
			return samples
		}
		b := build(f.drv("app-1.0", "hold"), 10*time.Second)
		if b.Measured == nil || *b.Measured != used {
			t.Errorf("the record has %+v", b.Measured)
		}
		k := estimate.Key{Kind: estimate.Package, Name: "app", Version: "1.0", System: "x86_64-linux"}
		e, err := f.ledger.Estimate(t.Context(), k)
		if m := e.Duration.Middle(); err != nil || e.Known() != estimate.FromVersion || m < 10*time.Second || m > 12*time.Second {
			t.Errorf("%s from %s, %v", m, e.Known(), err)
		}
		if e.CPU.Middle() != 12*time.Second || e.Memory.Middle() != 1<<30 || e.Disk.Middle() != 1<<20 || e.Output.Middle() <= 0 {
			t.Errorf("CPU %s, memory %d, disk %d, output %d", e.CPU.Middle(), e.Memory.Middle(), e.Disk.Middle(), e.Output.Middle())
		}
		if err := f.ledger.AllSamples(t.Context(), func(s *ledger.Samples) error {
			if x := s.Samples[0]; s.Key.Name == "app" && (x.Machine != "m1" || x.Input <= 0 || x.Version != "1.0" || x.Time.IsZero()) {
				t.Errorf("sample %+v", x)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if n := learnt(); n != 0 {
			t.Errorf("the speed has %d samples after the first build", n)
		}
		build(f.drv("app-1.1", "hold"), 20*time.Second)
		if n := learnt(); n != 1 {
			t.Errorf("the speed has %d samples after the second build", n)
		}
		build(f.derive(fixed("a"), "app-1.2.tar.gz", "hold"), 10*time.Second)
		build(f.derive(fixed("b"), "app-1.3.tar.gz", "hold"), 10*time.Second)
		if n := learnt(); n != 1 {
			t.Errorf("the speed has %d samples after downloads", n)
		}
		e, err = f.ledger.Estimate(t.Context(), estimate.Key{Kind: estimate.Download, Name: "app", Version: "1.3.tar.gz", System: "x86_64-linux"})
		if err != nil || e.Known() != estimate.FromVersion {
			t.Errorf("a download: from %s, %v", e.Known(), err)
		}

		// A build that fails has used something too, and teaches no times.
		failed := f.awaitFinal(f.submit(f.drv("broken-1.0", "fail"))[0])
		if failed.State != api.Failed || failed.Measured == nil {
			t.Errorf("%s, measured %+v", failed.State, failed.Measured)
		}
		if e, err := f.ledger.Estimate(t.Context(), estimate.Key{Kind: estimate.Package, Name: "broken", System: "x86_64-linux"}); err != nil || e.Measured() {
			t.Errorf("from %s, %v", e.Known(), err)
		}
	})
}
