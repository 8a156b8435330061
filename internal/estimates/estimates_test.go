package estimates

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/scheduler/estimate"
)

func open(t *testing.T) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(t.TempDir(), ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// measured puts samples of a few packages into a ledger.
func measured(t *testing.T, l *ledger.Ledger) {
	t.Helper()
	var changes []ledger.Change
	for i, k := range []estimate.Key{
		{Kind: estimate.Package, Name: "hello", System: "x86_64-linux", Version: "2.12", BuildSystem: "gnu"},
		{Kind: estimate.Download, Name: "hello", System: "x86_64-linux", Version: "2.12.tar.gz"},
		{Kind: estimate.Package, Name: "hello", System: "aarch64-linux", Version: "2.12", BuildSystem: "gnu"},
		{Kind: estimate.Package, Name: "<zlib>", System: "x86_64-linux", Version: "1", BuildSystem: "gnu"},
	} {
		for n := range 3 {
			changes = append(changes, ledger.Change{Samples: &ledger.Samples{Key: k, Samples: []estimate.Sample{{
				Version: k.Version, Duration: time.Duration(10*i+n+1) * time.Second, Speed: 1, CPU: time.Minute, Memory: 1 << 30, Disk: 1 << 20,
				Input: 5, Output: 1 << 20, Machine: "secret", Class: "4 cores", Time: time.Unix(int64(1000+n), 0).UTC(),
			}}}})
		}
	}
	if _, err := l.Apply(t.Context(), changes, true); err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	from, to := open(t), open(t)
	measured(t, from)
	var file bytes.Buffer
	if err := Export(t.Context(), from, &file, false); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(file.String(), "secret") || strings.Count(file.String(), "\n") != 5 {
		t.Errorf("the file is:\n%s", &file)
	}
	var withMachines bytes.Buffer
	if err := Export(t.Context(), from, &withMachines, true); err != nil || strings.Count(withMachines.String(), `"secret"`) != 12 {
		t.Errorf("%v, the file with machines is:\n%s", err, &withMachines)
	}
	for range 2 { // the second time changes nothing
		for _, text := range []string{file.String(), withMachines.String()} {
			samples, err := Read(strings.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			done, err := Import(t.Context(), to, samples)
			if want := (api.ImportedSamples{Packages: 4, Samples: 12}); err != nil || *done != want {
				t.Errorf("imported %+v, %v", done, err)
			}
			var again bytes.Buffer
			if err := Export(t.Context(), to, &again, true); err != nil {
				t.Fatal(err)
			}
			imported := strings.ReplaceAll(file.String(), `Z"}`, `Z","imported":true}`)
			if diff := cmp.Diff(strings.SplitN(imported, "\n", 2)[1], strings.SplitN(again.String(), "\n", 2)[1]); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
	}
	own, err := List(t.Context(), from, "")
	if err != nil {
		t.Fatal(err)
	}
	other, err := List(t.Context(), to, "")
	if err != nil || len(own.Estimates) != 4 || len(other.Estimates) != 4 {
		t.Fatalf("%v, %v, %v", own, other, err)
	}
	for i := range own.Estimates {
		a, b := own.Estimates[i], other.Estimates[i]
		if a.Name != b.Name || a.Duration.Middle != b.Duration.Middle || a.Duration.High >= b.Duration.High || a.Imported != 0 || b.Imported != 3 {
			t.Errorf("of own samples %+v, of imported ones %+v", a, b)
		}
	}
}

func TestRead(t *testing.T) {
	const first = `{"format":"lighter-estimates","version":1}` + "\n"
	good := `{"kind":"package","name":"a","system":"x","samples":[{"duration":1}]}` + "\n"
	for name, tt := range map[string]struct{ text, want string }{
		"good":             {first + good + good, ""},
		"empty lines":      {first + "\n" + good + "\n", ""},
		"no last newline":  {first + strings.TrimSpace(good), ""},
		"only a header":    {first, ""},
		"nothing":          {"", "line 1: this is no file of estimates"},
		"another file":     {good, "line 1: this is no file of estimates"},
		"newer":            {`{"format":"lighter-estimates","version":2}`, "line 1: the file has version 2, and this lighter reads version 1"},
		"no JSON":          {first + good + "{\n", "line 3: "},
		"unknown field":    {first + `{"kinds":"package"}`, `line 2: `},
		"unknown kind":     {first + strings.Replace(good, "package", "odd", 1), `line 2: unknown kind "odd"`},
		"no name":          {first + strings.Replace(good, `"a"`, `""`, 1), "line 2: sample without name or system"},
		"odd build system": {first + strings.Replace(good, `"system"`, `"buildSystem":"odd","system"`, 1), `line 2: unknown build system "odd"`},
		"zero byte":        {first + strings.Replace(good, `"a"`, `"a\u0000b"`, 1), "line 2: name"},
		"no samples":       {first + `{"kind":"package","name":"a","system":"x"}`, "line 2: no samples"},
		"nothing measured": {first + strings.Replace(good, `"duration":1`, `"input":1`, 1), "line 2: sample 1 has nothing that was measured"},
		"negative":         {first + strings.Replace(good, `"duration":1`, `"duration":1,"memory":-1`, 1), "line 2: memory -1"},
		"centuries":        {first + strings.Replace(good, `"duration":1`, `"duration":9000000000000000000`, 1), "line 2: seconds"},
		"too large":        {first + strings.Replace(good, `"duration":1`, `"duration":1e30`, 1), "line 2: "},
		"many samples":     {first + strings.Replace(good, `{"duration":1}`, strings.Repeat(`{"duration":1},`, 16)+`{"duration":1}`, 1), "line 2: 17 samples"},
		"two on a line":    {first + strings.TrimSpace(good) + good, "line 2: more than one JSON object"},
		"long line":        {first + good + strings.Repeat("x", MaxLine), "line 3 is longer than 65536 bytes"},
		"many lines":       {first + strings.Repeat(good, MaxPackages+1), fmt.Sprintf("line %d: more than 200000 packages", MaxPackages+2)},
	} {
		_, err := Read(strings.NewReader(tt.text))
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %s", name, err, tt.want)
		}
	}
}

func TestList(t *testing.T) {
	l := open(t)
	measured(t, l)
	names := func(list *api.EstimateList) string {
		var text []string
		for _, e := range list.Estimates {
			text = append(text, fmt.Sprintf("%s-%s %s %s %d", e.Name, e.Version, e.System, e.Kind, e.Samples))
		}
		return strings.Join(text, "; ")
	}
	hello := "hello-2.12 aarch64-linux package 3; hello-2.12.tar.gz x86_64-linux download 3; hello-2.12 x86_64-linux package 3"
	for pattern, want := range map[string]string{
		"":           "<zlib>-1 x86_64-linux package 3; " + hello,
		"hello":      hello,
		"hel*":       hello,
		"hello-2.12": "hello-2.12 aarch64-linux package 3; hello-2.12 x86_64-linux package 3",
		"none*":      "",
		"rust-1.90":  "rust-1.90 aarch64-linux package 0; rust-1.90 x86_64-linux package 0",
	} {
		list, err := List(t.Context(), l, pattern)
		if err != nil || names(list) != want {
			t.Errorf("%q: %s, %v", pattern, names(list), err)
		}
	}
	list, err := List(t.Context(), nil, "rust-1.90")
	if err != nil || names(list) != "rust-1.90  package 0" || list.Estimates[0].Duration.Middle != 3600 || list.Estimates[0].Duration.From != "a table of giants" {
		t.Errorf("without a ledger: %+v, %v", list, err)
	}
	list, err = List(t.Context(), l, "other-1")
	if err != nil || list.Estimates[0].Duration.From != "all of its kind" {
		t.Errorf("got %+v, %v", list, err)
	}
	if _, err := List(t.Context(), l, "["); err == nil {
		t.Error("a pattern that is none is taken")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := List(ended, l, ""); err == nil {
		t.Error("it goes on when its context has ended")
	}
}

// FuzzRead has files from elsewhere: what is read can be imported, and is the same when it is written and read again.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"format":"lighter-estimates","version":1}` + "\n" + `{"kind":"package","name":"a","system":"x","buildSystem":"gnu","samples":[{"version":"1","duration":1,"speed":2,"cpu":3,"memory":4,"disk":5,"input":6,"output":7,"class":"c","time":"2026-01-02T03:04:05Z"}]}`))
	f.Add([]byte(`{"format":"lighter-estimates","version":1}` + "\n\n" + `{"kind":"graft","name":"a\u0000","system":"x","samples":[{"duration":-1}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		samples, err := Read(bytes.NewReader(text))
		if err != nil {
			return
		}
		var file bytes.Buffer
		w, err := NewWriter(&file, time.Time{}, false)
		if err != nil {
			t.Fatal(err)
		}
		for i := range samples {
			s := &samples[i]
			if err := s.Check(); err != nil {
				t.Fatalf("the ledger does not take it: %v", err)
			}
			e := estimate.Of(s.Key, s.Samples, nil, nil)
			if low, high := e.Duration.Interval(); low <= 0 || high < low {
				t.Errorf("from %d to %d", low, high)
			}
			if err := w.Write(s); err != nil {
				t.Fatal(err)
			}
		}
		again, err := Read(&file)
		if err != nil {
			t.Fatalf("what was written can't be read: %v", err)
		}
		if len(samples)+len(again) > 0 {
			if diff := cmp.Diff(samples, again); diff != "" {
				t.Errorf("(-read +read again):\n%s", diff)
			}
		}
	})
}
