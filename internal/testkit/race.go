//go:build race

package testkit

// AllocFactor is how much more a program may allocate, because the race detector has
// pools forget much of what they are given.
const AllocFactor = 8
