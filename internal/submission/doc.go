// Package submission makes requests of what a person or a program gives, and brings them
// to the coordinator.
//
// A [Reader] makes requests of arguments and lines. A [Submitter] brings them there in
// portions, each durable before the next one goes, and waits where the coordinator went
// away. With ids that follow from a submission's name, see [BuildID], the same can be
// submitted again after an interruption and makes no second builds.
package submission
