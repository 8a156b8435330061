package estimate

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"lighter/scheduler"
)

var key = Key{Kind: Package, Name: "hello", System: "x86_64-linux", Version: "2.12", BuildSystem: "gnu"}

func sample(d time.Duration) Sample {
	return Sample{Duration: d, Speed: 1, Version: key.Version, System: key.System}
}

func durationOf(samples ...Sample) Dist[time.Duration] { return Of(key, samples, nil, nil).Duration }

func TestMiddle(t *testing.T) {
	fast, unknown := sample(time.Minute), sample(time.Minute)
	fast.Speed, unknown.Speed = 2, 0
	for _, tt := range []struct {
		name    string
		samples []Sample
		want    time.Duration
	}{
		{"none", nil, scheduler.DefaultDuration},
		{"one", []Sample{sample(90 * time.Second)}, 90 * time.Second},
		{"on a fast machine", []Sample{fast}, 2 * time.Minute},
		{"no speed", []Sample{unknown}, time.Minute},
		{"the newer counts more", []Sample{sample(10 * time.Second), sample(320 * time.Second)}, 40 * time.Second},
		{"one that was not measured says nothing", []Sample{{Memory: 1, Version: key.Version}, sample(90 * time.Second)}, 90 * time.Second},
		{"negative", []Sample{sample(-1), sample(5)}, 5},
		{"very long", []Sample{{Duration: math.MaxInt64, Speed: 1e6}}, math.MaxInt64},
	} {
		got := durationOf(tt.samples...).Middle()
		if (got - tt.want).Abs() > time.Microsecond {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

// Samples count less the less they are like what is asked about.
func TestUnlikeSamples(t *testing.T) {
	const short, long = 10 * time.Second, 1000 * time.Second
	k := key
	k.Class = "4"
	for name, change := range map[string]func(*Sample){
		"version":  func(s *Sample) { s.Version = "2.11" },
		"system":   func(s *Sample) { s.System = "aarch64-linux" },
		"class":    func(s *Sample) { s.Class = "16" },
		"imported": func(s *Sample) { s.Imported = true },
	} {
		other := sample(long)
		change(&other)
		like := Of(k, []Sample{sample(long), sample(short)}, nil, nil).Duration
		unlike := Of(k, []Sample{other, sample(short)}, nil, nil).Duration
		if m := unlike.Middle(); m >= like.Middle()/2 || m <= short {
			t.Errorf("%s: the middle is %s, where it counts as any %s", name, m, like.Middle())
		}
		alone, own := Of(k, []Sample{other}, nil, nil).Duration, Of(k, []Sample{sample(long)}, nil, nil).Duration
		if alone.Middle() != own.Middle() || alone.Quantile(0.9) <= own.Quantile(0.9) {
			t.Errorf("%s: alone it leads to %s and %s, own to %s and %s", name, alone.Middle(), alone.Quantile(0.9), own.Middle(), own.Quantile(0.9))
		}
		want := FromVersion
		if name == "version" || name == "system" {
			want = FromPackage
		}
		if alone.Known() != want {
			t.Errorf("%s: it comes from %s, want %s", name, alone.Known(), want)
		}
	}
}

func classOf(n int, d time.Duration, memory int64) *Class {
	c := new(Class)
	for range n {
		c.Observe(&Sample{Duration: d, Speed: 1, Memory: memory})
	}
	return c
}

// Each quantity comes from where it is known, from near to far.
func TestFallback(t *testing.T) {
	system, all := classOf(100, 10*time.Second, 1<<20), classOf(100, 1000*time.Second, 1<<30)
	near := func(got, want float64) bool { return got > want/1.5 && got < want*1.5 }
	rust := key
	rust.Name = "rust"
	source := rust
	source.Kind = Archive
	for _, tt := range []struct {
		name        string
		key         Key
		samples     []Sample
		system, all *Class
		known       Known
		want        time.Duration
		memory      int64
		memoryKnown Known
	}{
		{"nothing", key, nil, nil, nil, Guess, time.Minute, 512 << 20, Guess},
		{"empty classes", key, nil, new(Class), new(Class), Guess, time.Minute, 512 << 20, Guess},
		{"all", key, nil, nil, all, FromAll, 1000 * time.Second, 1 << 30, FromAll},
		{"build system", key, nil, system, all, FromBuildSystem, 10 * time.Second, 1 << 20, FromBuildSystem},
		{"a giant", rust, nil, system, all, FromTable, time.Hour, 8 << 30, FromTable},
		{"its source is none", source, nil, nil, nil, Guess, 10 * time.Second, 256 << 20, Guess},
		{"a giant that was measured", rust, []Sample{sample(time.Minute)}, system, all, FromVersion, time.Minute, 8 << 30, FromTable},
		{"the package", key, []Sample{{Duration: time.Hour, Version: "1"}}, system, all, FromPackage, time.Hour, 1 << 20, FromBuildSystem},
		{"the version", key, []Sample{sample(time.Hour)}, system, all, FromVersion, time.Hour, 1 << 20, FromBuildSystem},
		{"its memory alone", key, []Sample{{Memory: 5 << 20, Version: key.Version, System: key.System}}, nil, all, FromAll, 1000 * time.Second, 5 << 20, FromVersion},
	} {
		e := Of(tt.key, tt.samples, tt.system, tt.all)
		if e.Known() != tt.known || !near(float64(e.Duration.Middle()), float64(tt.want)) {
			t.Errorf("%s: %s, from %s; want %s, from %s", tt.name, e.Duration.Middle(), e.Known(), tt.want, tt.known)
		}
		if e.Memory.Known() != tt.memoryKnown || !near(float64(e.Memory.Middle()), float64(tt.memory)) {
			t.Errorf("%s: memory %d, from %s; want %d, from %s", tt.name, e.Memory.Middle(), e.Memory.Known(), tt.memory, tt.memoryKnown)
		}
		if e.Measured() != (tt.known >= FromPackage) {
			t.Errorf("%s: measured: %v", tt.name, e.Measured())
		}
	}
}

// What is known of a class counts as much as there is of it.
func TestClassesAreWeighed(t *testing.T) {
	var last time.Duration
	for _, n := range []int{0, 1, 4, 20, 100, 10000} {
		got := Of(key, nil, nil, classOf(n, time.Hour, 0)).Duration
		if got.Middle() <= last || got.Middle() > time.Hour {
			t.Errorf("with %d builds of an hour it is %s, before %s", n, got.Middle(), last)
		}
		last = got.Middle()
	}
	if c := classOf(10000, time.Hour, 0); c.Duration.N != classMemory || c.Valid() != nil {
		t.Errorf("a class of many: %+v, %v", c.Duration, c.Valid())
	}
	for _, bad := range []Moments{{N: -1}, {N: math.NaN()}, {N: classMemory + 1}, {N: 1, Mean: math.Inf(1)}, {N: 1, Variance: -1}} {
		if (&Class{Disk: bad}).Valid() == nil {
			t.Errorf("%+v is valid", bad)
		}
	}
}

// Four builds in five are within the interval, however few samples there are, and however much
// such builds vary, as long as that is not far from what is assumed.
func TestCoverage(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, tt := range []struct {
		spread      float64
		samples     int
		least, most float64
	}{
		{0.3, 1, 0.77, 0.90},
		{0.3, 2, 0.77, 0.88},
		{0.3, 5, 0.77, 0.86},
		{0.3, 16, 0.76, 0.84},
		{0.2, 16, 0.80, 0.91},
		{0.5, 5, 0.70, 0.83},
		{0.5, 16, 0.74, 0.83},
	} {
		const trials = 20000
		within := 0
		for range trials {
			middle := math.Exp(10 + 8*rng.Float64())
			draw := func() Sample { return sample(time.Duration(middle * math.Exp(tt.spread*rng.NormFloat64()))) }
			samples := make([]Sample, tt.samples)
			for i := range samples {
				samples[i] = draw()
			}
			low, high := durationOf(samples...).Interval()
			if next := draw().Duration; low <= next && next <= high {
				within++
			}
		}
		if part := float64(within) / trials; part < tt.least || part > tt.most {
			t.Errorf("spread %.2f, %d samples: %.1f %% are within the interval, want %.0f to %.0f", tt.spread, tt.samples, 100*part, 100*tt.least, 100*tt.most)
		} else {
			t.Logf("spread %.2f, %d samples: %.1f %%", tt.spread, tt.samples, 100*part)
		}
	}
	// Of a class: the packages of a build system.
	class, within := new(Class), 0
	draw := func() time.Duration { return time.Duration(6e10 * math.Exp(1.3*rng.NormFloat64())) }
	for range 500 {
		class.Observe(&Sample{Duration: draw(), Speed: 1})
	}
	low, high := Of(key, nil, class, nil).Duration.Interval()
	for range 5000 {
		if d := draw(); low <= d && d <= high {
			within++
		}
	}
	if within < 3800 || within > 4200 {
		t.Errorf("%d of 5000 builds are within the interval of their class, from %s to %s", within, low, high)
	}
}

func TestQuantiles(t *testing.T) {
	// From tables of Student's t.
	for _, tt := range []struct{ q, freedom, want float64 }{
		{0.5, 4, 0},
		{0.9, 4, 1.5332},
		{0.95, 4, 2.1318},
		{0.99, 4, 3.7469},
		{0.9, 8, 1.3968},
		{0.95, 8, 1.8595},
		{0.1, 4, -1.5332},
		{0.9, 0, 1.2816},
		{0.95, 0, 1.6449},
	} {
		if got := studentQuantile(tt.q, tt.freedom); math.Abs(got-tt.want) > 0.01*math.Abs(tt.want)+1e-9 {
			t.Errorf("%v of %v degrees: got %.4f, want %.4f", tt.q, tt.freedom, got, tt.want)
		}
	}
	var none Dist[int64]
	if none.Middle() != 0 || none.High() != 0 || none.Known() != Guess {
		t.Error("the zero value says something")
	}
	d := durationOf(sample(time.Minute), sample(2*time.Minute))
	last := time.Duration(0)
	for _, q := range []float64{-1, 0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.999} {
		v := d.Quantile(q)
		if v < last || v <= 0 {
			t.Errorf("quantile %v is %s, after %s", q, v, last)
		}
		last = v
	}
	if d.Quantile(2) != last || d.High() <= d.Middle() {
		t.Error("what is beyond 1 counts as it, and High is above the middle")
	}
}

func BenchmarkOf(b *testing.B) {
	samples := make([]Sample, MaxSamples)
	for i := range samples {
		samples[i] = Sample{Duration: time.Minute, CPU: time.Minute, Memory: 1 << 30, Disk: 1 << 20, Output: 1 << 20, Version: key.Version}
	}
	for b.Loop() {
		e := Of(key, samples, nil, nil)
		_ = e.Memory.High()
	}
}

// TestKilled: what was killed for memory needs more, until one that was not killed shows how much.
func TestKilled(t *testing.T) {
	const gib = 1 << 30
	k := Key{Kind: Package, Name: "thing", System: "x86_64-linux", Version: "1"}
	killed := Sample{System: k.System, Version: "1", Memory: gib, Killed: true}
	if got := Of(k, []Sample{killed}, nil, nil).Memory.Middle(); got != 2*gib {
		t.Errorf("killed at 1 GiB: %d bytes", got)
	}
	shown := Sample{System: k.System, Version: "1", Memory: 5 * gib, Duration: time.Minute, Speed: 1}
	e := Of(k, []Sample{shown, killed, killed}, nil, nil)
	if got := e.Memory.Middle(); got != 5*gib || e.Memory.Samples() != 1 {
		t.Errorf("one has shown 5 GiB since: %d bytes of %d samples", got, e.Memory.Samples())
	}
	if got := Of(k, []Sample{killed, shown}, nil, nil).Memory.Samples(); got != 2 {
		t.Errorf("killed later: %d samples", got)
	}
}
