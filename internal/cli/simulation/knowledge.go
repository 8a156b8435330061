package simulation

import (
	"slices"

	"lighter/internal/ledger"
	"lighter/scheduler/estimate"
)

// knowledge is all that was measured of earlier builds.
type knowledge struct{ *estimate.Book }

func newKnowledge() *knowledge { return &knowledge{estimate.NewBook()} }

// maxKnown bounds how many packages are remembered.
const maxKnown = 500_000

// add takes what was measured of one package. What comes after maxKnown packages is dropped.
func (k *knowledge) add(s *ledger.Samples) {
	if k.Len() >= maxKnown {
		return
	}
	for i := range slices.Backward(s.Samples) { // the oldest first
		k.Add(s.Key, s.Samples[i])
	}
}

// ofName says it of a build of which only the name is known.
func (k *knowledge) ofName(name, system string) estimate.Estimate {
	return k.Of(estimate.KeyOf(estimate.Build{Name: name, System: system}))
}
