package local

import (
	"errors"
	"strings"
	"testing"

	"lighter/store"
)

const mib = 1 << 20

// measured builds a script and returns what the store says it used.
func measured(t *testing.T, s *Store, limit int64, script string) (store.Measured, error) {
	t.Helper()
	r := &recipe{name: "measured", script: script}
	r.add(t, s)
	var m store.Measured
	_, err := s.Build(t.Context(), &store.BuildRequest{Derivation: r.path, SandboxPaths: systemPaths(), Measured: &m, MemoryLimit: limit})
	t.Logf("%+v, %v", m, err)
	return m, err
}

// TestMeasured has builders use memory, time and disk.
func TestMeasured(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	spin := "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; "
	m, err := measured(t, s, 0, "dd if=/dev/zero of=/dev/null bs=150M count=4; head -c 20M /dev/urandom > file; "+spin+"echo made > $out")
	if err != nil {
		t.Fatal(err)
	}
	if m.PeakMemory < 150*mib || m.PeakMemory > 300*mib {
		t.Errorf("peak memory: %d MiB", m.PeakMemory/mib)
	}
	if m.CPU < 0.05 || m.CPU > 100 {
		t.Errorf("processor time: %g s", m.CPU)
	}
	if m.Disk < 20*mib || m.Disk > 30*mib {
		t.Errorf("disk: %d MiB", m.Disk/mib)
	}
	// It failed, and was measured all the same.
	if m, err := measured(t, s, 0, "dd if=/dev/zero of=/dev/null bs=50M count=1; echo kept > file; exit 3"); err == nil || m.PeakMemory < 50*mib || m.Disk == 0 || m.CPU == 0 {
		t.Errorf("got %+v", m)
	}
	inGroup := m.Method == store.MeasuredCgroup
	if !inGroup && (m.Method != store.MeasuredProcesses || !strings.Contains(m.Unmeasured, "memory: ") || !strings.Contains(m.Unmeasured, "no control group: ")) {
		t.Errorf("got %+v", m)
	}
	// What make says of a compiler that was killed.
	for script, code := range map[string]int{"exec dd if=/dev/zero of=/dev/null bs=150M count=1": 137, "dd if=/dev/zero of=/dev/null bs=150M count=2 || exit 2; echo > $out": 2} {
		m, err := measured(t, s, 100*mib, script)
		var failed *store.BuildError
		switch {
		case !inGroup:
			if m.MemoryLimit != 0 || !strings.Contains(m.Unmeasured, "no limit of memory was set; no control group: ") {
				t.Errorf("got %+v", m)
			}
		case !errors.As(err, &failed) || failed.Failure != store.FailedKilled || failed.ExitCode != code || !m.KilledForMemory || m.MemoryLimit != 100*mib || m.PeakMemory < 90*mib || m.PeakMemory > 101*mib:
			t.Errorf("got %v, %+v", err, m)
		}
	}
	wantClean(t, s)
}
