// Package estimate says what a build will probably take (time, processor time, memory, disk, and the size
// of what it makes), from what was measured of builds before it. It is as pure as package scheduler:
// samples go in, distributions come out.
//
// # From near to far
//
// Samples of the same package count ([Key]: a package, its source, and the modules of its build are
// three things), those of the same version most. Where there are none, what is known of the package from
// elsewhere is taken: a small table of giants; else all packages with the same build system, else all
// builds of that kind, else a guess. Each quantity goes that way by itself, since not every
// machine can measure everything, and [Dist.Known] says how far it had to go.
//
// # How
//
// What builds take spans five orders of magnitude, and what one package takes varies by a
// factor, so logarithms are taken for normal (a log-normal fit). A sample weighs two thirds of the
// next one in time, and a quarter where it is of another version, system or machine class, or was
// imported. With these weights the logarithms have the mean m. Weights are worth fewer whole
// samples than there are: for the mean
//
//	n = (Σ w)² / Σ w² · Σ w / Σ (w without the quarters)
//
// (Kish's effective size, less what the quarters take away). The mean may drift, as packages grow, but how
// much they vary about it hardly does, so for the variance the samples have no age: w' has the
// quarters alone, and n' is for w' what n is for w. It is not known well from few samples, and so has a prior,
// worth ν₀ = 4 samples that deviate by s₀ = 0.3, and for memory, which depends less on what else a machine does,
// by 0.15; the mean has none, since packages differ by factors of
// hundreds. The logarithm of what the next build takes has Student's t distribution then, with
//
//	ν = ν₀ + n' - 1    location m    scale² = (ν₀ s₀² + n' Σ w' (x-m)² / Σ w') / ν · (1 + 1/n)
//
// which is the normal model with the conjugate prior (Gelman and others, Bayesian Data Analysis, 3rd edition, sections 2.6
// and 3.3), but for the ages, and that ν never falls below ν₀. So after one build the interval that holds four in five
// is a factor of 1.9 to both sides, and after many it is what they show.
package estimate

import (
	"math"
	"slices"
	"time"
)

// Sample is what was measured of one build. What is 0 or less was not measured.
type Sample struct {
	System  string `json:"-"`
	Version string `json:"version,omitempty"`
	// Duration is how long it took on its machine, and Speed that machine's as configured; 0 counts as 1. The
	// corrected speed would feed the correction back into itself.
	Duration time.Duration `json:"duration,omitempty"` // ns in JSON
	Speed    float64       `json:"speed,omitempty"`
	CPU      time.Duration `json:"cpu,omitempty"`    // of all its processes together
	Memory   int64         `json:"memory,omitempty"` // bytes at the peak
	Disk     int64         `json:"disk,omitempty"`   // bytes at the peak, of its build folder and outputs
	Input    int64         `json:"input,omitempty"`  // NAR bytes of what it was given
	Output   int64         `json:"output,omitempty"` // NAR bytes of what it made
	Machine  string        `json:"machine,omitempty"`
	Class    string        `json:"class,omitempty"`    // of the machine; empty if not known
	Time     time.Time     `json:"time,omitzero"`      // when it had ended
	Imported bool          `json:"imported,omitempty"` // from another farm
	// Killed says that it was killed for want of memory: it needs more than Memory, and nothing else is known. It
	// counts as needing twice as much, until one that was not killed has shown what it needs.
	Killed bool `json:"killed,omitempty"`
}

// Same reports whether two samples are of the same build.
func (s *Sample) Same(o *Sample) bool {
	return s.Time.Equal(o.Time) && s.Duration == o.Duration && s.Version == o.Version
}

// MaxSamples is how many samples of a package are worth keeping: with sampleWeight, what comes
// after them changes nothing.
const MaxSamples = 16

const (
	// sampleWeight is the weight of a sample relative to the one after it in time.
	sampleWeight = 2.0 / 3
	// unlikeWeight is that of a sample that is unlike what is asked about in one respect.
	unlikeWeight = 1.0 / 4
	// priorFreedom and priorSpread are how much is assumed of the variation between builds of one
	// package before any was seen, and how large.
	priorFreedom = 4.0
	priorSpread  = 0.3
	memorySpread = 0.15
)

// Known says from how near an estimate comes. Greater is nearer.
type Known uint8

// From far to near.
const (
	Guess           Known = iota // nothing that is like it was measured
	FromAll                      // all builds of its kind
	FromBuildSystem              // packages with its build system
	FromTable                    // it is one of the giants that are known before they are measured
	FromPackage                  // other versions of it, or the same for another system
	FromVersion                  // this very version
)

// String says it for people.
func (k Known) String() string {
	switch k {
	case FromAll:
		return "all of its kind"
	case FromBuildSystem:
		return "its build system"
	case FromTable:
		return "a table of giants"
	case FromPackage:
		return "its package"
	case FromVersion:
		return "its version"
	}
	return "a guess"
}

// Dist is what is thought of one quantity: its logarithm has Student's t distribution. The zero
// value says nothing, and all its values are 0.
type Dist[T ~int64] struct {
	location float64
	scale    float32
	freedom  float32 // 0 stands for infinitely much: normal
	samples  uint16
	known    Known
	set      bool
}

// Middle is the median: as likely too much as too little.
func (d Dist[T]) Middle() T { return d.Quantile(0.5) }

// highQuantile is what High leaves no more than one in ten beyond. Of builds that run together, few
// need more than is reserved for them, and what these need others leave.
const highQuantile = 0.9

// High is what is exceeded by one build in ten: for reservations and limits.
func (d Dist[T]) High() T { return d.Quantile(highQuantile) }

// Interval holds four builds in five.
func (d Dist[T]) Interval() (low, high T) { return d.Quantile(0.1), d.Quantile(0.9) }

// Quantile returns what the part q of all such builds stays below; q is within 0 and 1, and what is
// nearer to them than 0.001 counts as that.
func (d Dist[T]) Quantile(q float64) T {
	if !d.set {
		return 0
	}
	x := d.location
	if q != 0.5 {
		x += float64(d.scale) * studentQuantile(min(max(q, 0.001), 0.999), float64(d.freedom))
	}
	// No int64 is greater than the float64 that math.MaxInt64 becomes.
	if v := math.Exp(x); v < math.MaxInt64 {
		return T(max(1, math.Round(v)))
	}
	return math.MaxInt64
}

// Known says from how near it comes.
func (d Dist[T]) Known() Known { return d.known }

// Samples is how many builds of the package it comes from; 0 if it comes from farther away.
func (d Dist[T]) Samples() int { return int(d.samples) }

// studentQuantile returns the quantile of Student's t distribution, by Cornish and Fisher's expansion (Abramowitz and Stegun,
// 26.7.5): right to 1 % with 4 degrees of freedom or more, within 0.001 and 0.999.
func studentQuantile(q, freedom float64) float64 {
	z := math.Sqrt2 * math.Erfinv(2*q-1)
	if freedom <= 0 {
		return z
	}
	s := z * z
	return z + z*((s+1)/(4*freedom)+
		((5*s+16)*s+3)/(96*freedom*freedom)+
		(((3*s+19)*s+17)*s-15)/(384*freedom*freedom*freedom)+
		((((79*s+776)*s+1482)*s-1920)*s-945)/(92160*freedom*freedom*freedom*freedom))
}

// Estimate is what a build will probably take.
type Estimate struct {
	Duration Dist[time.Duration] // at speed 1
	CPU      Dist[time.Duration]
	Memory   Dist[int64] // bytes at the peak
	Disk     Dist[int64]
	Output   Dist[int64] // NAR bytes
}

// Known says from how near the duration comes.
func (e *Estimate) Known() Known { return e.Duration.known }

// Measured reports whether its package was measured.
func (e *Estimate) Measured() bool { return e.Duration.known >= FromPackage }

// Of estimates a build from the samples of its package, most recent first, and from what is known
// of packages with its build system, and of all builds of its kind. Both may be nil.
func Of(k Key, samples []Sample, system, all *Class) Estimate {
	system, all = orNothing(system), orNothing(all)
	guess, rough := guesses[k.Kind], giants[k.Name]
	if k.Kind != Package {
		rough = giant{}
	}
	samples = withoutOldKills(samples)
	weights := weigh(k, samples)
	return Estimate{
		Duration: of[time.Duration](weights, samples, (*Sample).seconds, priorSpread, &system.Duration, &all.Duration, guess.duration, rough.hours*hour),
		CPU:      of[time.Duration](weights, samples, (*Sample).cpu, priorSpread, &system.CPU, &all.CPU, guess.duration, rough.hours*hour),
		Memory:   of[int64](weights, samples, (*Sample).memory, memorySpread, &system.Memory, &all.Memory, guess.memory, rough.memory*gib),
		Disk:     of[int64](weights, samples, (*Sample).disk, priorSpread, &system.Disk, &all.Disk, guess.disk, 0),
		Output:   of[int64](weights, samples, (*Sample).output, priorSpread, &system.Output, &all.Output, guess.output, 0),
	}
}

func orNothing(c *Class) *Class {
	if c == nil {
		return &Class{}
	}
	return c
}

// The quantities of a sample; 0 or less is not measured.
func (s *Sample) seconds() float64 { return float64(s.Duration) * speedOr1(s.Speed) }
func (s *Sample) cpu() float64     { return float64(s.CPU) * speedOr1(s.Speed) }

func (s *Sample) memory() float64 {
	if s.Killed {
		return 2 * float64(s.Memory)
	}
	return float64(s.Memory)
}

func (s *Sample) disk() float64   { return float64(s.Disk) }
func (s *Sample) output() float64 { return float64(s.Output) }

// withoutOldKills returns samples without those of killed builds that are older than one that shows what
// memory is needed.
func withoutOldKills(samples []Sample) []Sample {
	shown := slices.IndexFunc(samples, func(s Sample) bool { return s.Memory > 0 && !s.Killed })
	if shown < 0 || !slices.ContainsFunc(samples[shown:], func(s Sample) bool { return s.Killed }) {
		return samples
	}
	left := slices.Clone(samples[:shown])
	for i := range samples[shown:] {
		if s := &samples[shown+i]; !s.Killed {
			left = append(left, *s)
		}
	}
	return left
}

func speedOr1(speed float64) float64 {
	if speed > 0 {
		return speed
	}
	return 1
}

// weight is that of one sample: by its age alone, and by how unlike it is alone.
type weight struct {
	age, like float64
	version   bool // it is of the very version, and system
}

func weigh(k Key, samples []Sample) []weight {
	if len(samples) == 0 {
		return nil
	}
	weights := make([]weight, len(samples))
	age := 1.0
	for i := range samples {
		s := &samples[i]
		like := 1.0
		for _, unlike := range []bool{
			s.Version != k.Version, s.System != k.System, k.Class != "" && s.Class != "" && s.Class != k.Class, s.Imported,
		} {
			if unlike {
				like *= unlikeWeight
			}
		}
		weights[i] = weight{age, like, s.Version == k.Version && s.System == k.System}
		age *= sampleWeight
	}
	return weights
}

// of is the formula of the package comment for one quantity; spread is s₀.
func of[T ~int64](weights []weight, samples []Sample, value func(*Sample) float64, spread float64, system, all *Moments, guess, rough float64) Dist[T] {
	var d Dist[T]
	var mean, about size
	var sum float64
	logs := make([]float64, 0, MaxSamples)
	for i := range weights {
		x := value(&samples[i])
		if !(x > 0) {
			logs = append(logs, math.NaN())
			continue
		}
		w := &weights[i]
		logs = append(logs, math.Log(x))
		sum += w.age * w.like * logs[i]
		mean.add(w.age*w.like, w.age)
		about.add(w.like, 1)
		d.samples++
		d.known = max(d.known, FromPackage)
		if w.version {
			d.known = FromVersion
		}
	}
	switch {
	case d.samples > 0:
	case rough > 0:
		return Dist[T]{location: math.Log(rough), scale: giantSpread, known: FromTable, set: true}
	default:
		return fallback[T](system, all, guess)
	}
	d.location = sum / mean.sum
	var squares float64
	for i := range weights {
		if dev := logs[i] - d.location; !math.IsNaN(dev) {
			squares += weights[i].like * dev * dev
		}
	}
	freedom := priorFreedom + max(0, about.whole()-1)
	variance := (priorFreedom*spread*spread + about.whole()*squares/about.sum) / freedom
	d.scale, d.freedom, d.set = float32(math.Sqrt(variance*(1+1/mean.whole()))), float32(freedom), true
	return d
}

// size tells how many whole samples some that have weights are worth.
type size struct{ sum, squares, full float64 }

// add adds a sample with a weight, and that which it would have if nothing were unlike.
func (s *size) add(w, full float64) {
	s.sum, s.squares, s.full = s.sum+w, s.squares+w*w, s.full+full
}

func (s *size) whole() float64 { return s.sum * s.sum / s.squares * s.sum / s.full }
