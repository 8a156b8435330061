//go:build !race

package testkit

// AllocFactor is how much more a program may allocate because of how it was built.
const AllocFactor = 1
