package estimate

import (
	"errors"
	"math"
	"time"

	"lighter/scheduler"
)

// Class is what was measured of many builds together: those of packages with one build system,
// or all of one kind. The zero value knows nothing. It can be stored, and stays as small as it is.
type Class struct {
	Duration Moments `json:"duration"`
	CPU      Moments `json:"cpu"`
	Memory   Moments `json:"memory"`
	Disk     Moments `json:"disk"`
	Output   Moments `json:"output"`
}

// Moments are mean and variance of the logarithms of what was measured.
type Moments struct {
	N        float64 `json:"n"` // how many, at most classMemory
	Mean     float64 `json:"mean"`
	Variance float64 `json:"variance"`
}

const (
	// classMemory bounds how many builds a class remembers; older ones fade.
	classMemory = 1000
	// classPrior is how many builds what is known of a wider class counts for.
	classPrior = 4
	// maxLog is more than the logarithm of any int64.
	maxLog = 100
)

// Observe adds a sample. One from another farm counts less.
func (c *Class) Observe(s *Sample) {
	w := 1.0
	if s.Imported {
		w = unlikeWeight
	}
	c.Duration.observe(s.seconds(), w)
	c.CPU.observe(s.cpu(), w)
	c.Memory.observe(s.memory(), w)
	c.Disk.observe(s.disk(), w)
	c.Output.observe(s.output(), w)
}

// Valid returns an error if it holds what no observation leads to.
func (c *Class) Valid() error {
	for _, m := range []*Moments{&c.Duration, &c.CPU, &c.Memory, &c.Disk, &c.Output} {
		if !(m.N >= 0 && m.N <= classMemory && math.Abs(m.Mean) <= maxLog && m.Variance >= 0 && m.Variance <= maxLog*maxLog) {
			return errors.New("moments that can't be")
		}
	}
	return nil
}

func (m *Moments) observe(x, weight float64) {
	if !(x > 0) || math.IsInf(x, 0) {
		return
	}
	m.N = min(m.N+weight, classMemory)
	x = math.Log(x)
	part := weight / m.N
	dev := x - m.Mean
	m.Mean += part * dev
	m.Variance += part * (dev*(x-m.Mean) - m.Variance)
}

// guessSpread is the standard deviation of the logarithms between builds of which nothing is known.
const guessSpread = 1.3

// guess is what is assumed of a kind of builds before any was measured.
type guess struct {
	duration             float64 // nanoseconds
	memory, disk, output float64 // bytes
}

const mib = 1 << 20

// guesses are orders of magnitude. That of packages is what the scheduler assumes of builds.
var guesses = map[Kind]guess{
	Package:  {float64(scheduler.DefaultDuration), 512 * mib, 256 * mib, 4 * mib},
	Download: {float64(5 * time.Second), 64 * mib, 16 * mib, 4 * mib},
	Archive:  {float64(10 * time.Second), 256 * mib, 64 * mib, 4 * mib},
	Module:   {float64(10 * time.Second), 256 * mib, 8 * mib, 1 * mib},
	Profile:  {float64(5 * time.Second), 128 * mib, 8 * mib, 1 * mib},
	Graft:    {float64(5 * time.Second), 64 * mib, 64 * mib, 8 * mib},
}

// fallback is what is thought of a quantity where no build of the package was measured: the guess, moved towards all
// builds of the kind as there are more of them, and then towards those with the build system.
func fallback[T ~int64](system, all *Moments, guess float64) Dist[T] {
	if guess <= 0 {
		return Dist[T]{}
	}
	d := Dist[T]{location: math.Log(guess), scale: guessSpread, set: true}
	for _, step := range []struct {
		m     *Moments
		known Known
	}{{all, FromAll}, {system, FromBuildSystem}} {
		if n := step.m.N; n > 0 {
			part := n / (n + classPrior)
			apart := step.m.Mean - d.location
			old := float64(d.scale) * float64(d.scale)
			d.location += part * apart
			d.scale = float32(math.Sqrt(old + part*(step.m.Variance-old)))
			d.known = step.known
		}
	}
	return d
}
