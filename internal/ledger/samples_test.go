package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"lighter/scheduler/estimate"
)

func samplesFor(name, system string, samples ...estimate.Sample) *Samples {
	return &Samples{Key: estimate.Key{Kind: estimate.Package, Name: name, System: system}, Samples: samples}
}

func keyOf(name, system string) []byte { return keySamples(&samplesFor(name, system).Key) }

// samplesIn returns the samples of a package.
func samplesIn(t *testing.T, l *Ledger, k estimate.Key) []estimate.Sample {
	t.Helper()
	var found []estimate.Sample
	if err := l.AllSamples(t.Context(), func(s *Samples) error {
		if s.Key.Name == k.Name && s.Key.System == k.System && s.Key.Kind == k.Kind {
			found = s.Samples
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestSamples(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	hello := estimate.Key{Kind: estimate.Package, Name: "hello", System: "x86_64-linux", Version: "1", BuildSystem: "gnu"}
	source := hello
	source.Kind, source.BuildSystem = estimate.Download, ""
	record := func(k estimate.Key, d time.Duration) {
		t.Helper()
		sample := estimate.Sample{Version: k.Version, Speed: 1, Duration: d, CPU: 2 * d, Memory: 1 << 30, Disk: 1, Input: 2, Output: 3, Machine: "m", Class: "4 cores", Time: time.Unix(int64(d), 0).UTC()}
		if _, err := l.Apply(t.Context(), []Change{{Samples: &Samples{Key: k, Samples: []estimate.Sample{sample}}}}, false); err != nil {
			t.Fatal(err)
		}
	}
	for i := range estimate.MaxSamples + 4 {
		record(hello, time.Duration(i+1)*time.Second)
		record(source, time.Millisecond)
	}
	for range 2 {
		got := samplesIn(t, l, hello)
		if len(got) != estimate.MaxSamples || got[0].Duration != 20*time.Second || got[15].Duration != 5*time.Second {
			t.Errorf("got %v", got)
		}
		want := estimate.Sample{System: "x86_64-linux", Version: "1", Duration: 20 * time.Second, Speed: 1, CPU: 40 * time.Second, Memory: 1 << 30, Disk: 1, Input: 2, Output: 3, Machine: "m", Class: "4 cores", Time: time.Unix(20e9, 0).UTC()}
		if diff := cmp.Diff(want, got[0]); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if n := len(samplesIn(t, l, source)); n != 4 {
			t.Errorf("%d samples of a download are kept", n)
		}
		for name, tt := range map[string]struct {
			key         estimate.Key
			known       estimate.Known
			least, most time.Duration
		}{
			"the package":          {hello, estimate.FromVersion, 15 * time.Second, 20 * time.Second},
			"its source":           {source, estimate.FromVersion, time.Millisecond, time.Millisecond},
			"another version":      {change(hello, func(k *estimate.Key) { k.Version = "2" }), estimate.FromPackage, 15 * time.Second, 20 * time.Second},
			"another system":       {change(hello, func(k *estimate.Key) { k.System = "aarch64-linux" }), estimate.FromPackage, 15 * time.Second, 20 * time.Second},
			"another package":      {change(hello, func(k *estimate.Key) { k.Name = "other" }), estimate.FromBuildSystem, 5 * time.Second, 30 * time.Second},
			"another build system": {change(hello, func(k *estimate.Key) { k.Name, k.BuildSystem = "other", "cmake" }), estimate.FromAll, 5 * time.Second, 30 * time.Second},
			"another kind":         {change(hello, func(k *estimate.Key) { k.Kind = estimate.Module }), estimate.Guess, 10 * time.Second, 10 * time.Second},
		} {
			e, err := l.Estimate(t.Context(), tt.key)
			if m := e.Duration.Middle(); err != nil || e.Known() != tt.known || m < tt.least || m > tt.most {
				t.Errorf("%s: %s, from %s, %v", name, m, e.Known(), err)
			}
		}
		check(t, l)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, dir, Options{}) // what was remembered is on disk
	}
}

func change(k estimate.Key, fn func(*estimate.Key)) estimate.Key {
	fn(&k)
	return k
}

// Imported samples stand behind those of this farm, whatever their time, and none is taken twice.
func TestImportedSamples(t *testing.T) {
	l := open(t, "ledger", Options{FS: vfs.NewMem()})
	at := func(n int, imported bool) estimate.Sample {
		return estimate.Sample{Duration: time.Duration(n) * time.Second, Time: time.Unix(int64(n), 0).UTC(), Imported: imported}
	}
	var own, others []estimate.Sample
	for i := range 10 {
		own, others = append(own, at(10-i, false)), append(others, at(1000-i, true))
	}
	k := samplesFor("hello", "x").Key
	apply(t, l, Change{Samples: samplesFor("hello", "x", own...)})
	for range 3 {
		apply(t, l, Change{Samples: samplesFor("hello", "x", others...)})
		apply(t, l, Change{Samples: samplesFor("hello", "x", at(5, true), at(1000, true))}) // the first is of this farm
		got := samplesIn(t, l, k)
		var names []string
		for _, s := range got {
			names = append(names, fmt.Sprintf("%v%v", s.Duration.Seconds(), s.Imported))
		}
		want := "10false 9false 8false 7false 6false 5false 4false 3false 2false 1false 1000true 999true 998true 997true 996true 995true"
		if text := strings.Join(names, " "); text != want {
			t.Fatalf("got %s", text)
		}
	}
	if n := l.samples.classes[string(keyClass(estimate.Package, ""))].Duration.N; n != 10+6*0.25 {
		t.Errorf("the class counts %v", n)
	}
	apply(t, l, Change{Samples: samplesFor("hello", "x", at(2000, false))})
	if got := samplesIn(t, l, k); len(got) != 16 || got[0].Duration != 2000*time.Second || got[15].Duration != 996*time.Second {
		t.Errorf("got %v", got)
	}
	check(t, l)
}

// TestMigrationOfSamples has what format 3 kept of builds: builds and events are not touched.
func TestMigrationOfSamples(t *testing.T) {
	fs := vfs.NewCrashableMem()
	m, last := writeFormat1(t, fs, 50)
	l := open(t, "ledger", Options{FS: fs})
	b := l.db.NewBatch()
	const many = 2*migrationStep + 100
	for i := range many {
		key := fmt.Sprintf("dx86_64-linux\x00package-%05d", i)
		if err := b.Set([]byte(key), []byte(`[{"machine":"m","speed":2,"seconds":1.5,"time":"2026-05-01T00:00:00Z"},{"seconds":3}]`), nil); err != nil {
			t.Fatal(err)
		}
	}
	for key, value := range map[string]string{
		"dx86_64-linux\x00broken": `{`, "dx86_64-linux\x00half": `[{"seconds":-1},{"seconds":7}]`, "dodd": `[]`, "daarch64-linux\x00hello": `[{"seconds":9}]`,
	} {
		if err := b.Set([]byte(key), []byte(value), nil); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(b.DeleteRange([]byte{prefixSamples}, after([]byte{prefixSamples}), nil), b.Set(keyMeta("format"), []byte("3"), nil), b.Commit(pebble.Sync), l.Close())
	if err != nil {
		t.Fatal(err)
	}
	var crashed []*vfs.MemFS
	var log bytes.Buffer
	l = open(t, "ledger", Options{FS: fs, Logger: slog.New(slog.NewTextHandler(&log, nil)), migrated: func(l *Ledger) {
		if err := l.db.LogData(nil, pebble.Sync); err != nil {
			t.Error(err)
		}
		crashed = append(crashed, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(1, uint64(len(crashed))))}))
	}})
	if text := log.String(); !strings.Contains(text, "bringing what was measured to a new format") || strings.Contains(text, "builds=") || !strings.Contains(text, "broken") {
		t.Errorf("log: %s", text)
	}
	if len(crashed) != 3 {
		t.Errorf("%d steps", len(crashed))
	}
	ledgers := []*Ledger{l}
	for _, fs := range crashed {
		ledgers = append(ledgers, open(t, "ledger", Options{FS: fs}))
	}
	for i, l := range ledgers {
		verifyMigrated(t, l, m, last, 5)
		n := 0
		if err := l.AllSamples(t.Context(), func(s *Samples) error {
			n++
			if s.Key.Kind != estimate.Package {
				t.Errorf("%+v", s.Key)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if n != many+2 {
			t.Errorf("ledger %d: samples of %d packages, want %d", i, n, many+2)
		}
		got := samplesIn(t, l, samplesFor("package-00007", "x86_64-linux").Key)
		want := []estimate.Sample{
			{System: "x86_64-linux", Machine: "m", Speed: 2, Duration: 1500 * time.Millisecond, Time: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)},
			{System: "x86_64-linux", Duration: 3 * time.Second},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ledger %d (-want +got):\n%s", i, diff)
		}
		if got := samplesIn(t, l, samplesFor("half", "x86_64-linux").Key); len(got) != 1 || got[0].Duration != 7*time.Second {
			t.Errorf("ledger %d: got %v", i, got)
		}
		e, err := l.Estimate(t.Context(), estimate.Key{Kind: estimate.Package, Name: "package-00001", Version: "1", System: "x86_64-linux"})
		if err != nil || e.Known() != estimate.FromPackage || e.Duration.Middle() != 3*time.Second {
			t.Errorf("ledger %d: %s from %s, %v", i, e.Duration.Middle(), e.Known(), err)
		}
	}
	if systems := l.samples.systems; len(systems) != 2 || !systems["x86_64-linux"] || !systems["aarch64-linux"] {
		t.Errorf("systems: %v", systems)
	}
}
