// Package machinetest tests whether machines can build: it reaches them, tries step by step
// what building there needs, and says what to do about what fails.
//
// A Tester is used by the coordinator over its own connections, by "lighter machines test"
// where no coordinator runs, and by "lighter offload test". It decides nothing about builds,
// and retries nothing. Unfit is the part of a test that needs no step: what is wrong with a
// machine by what its agent says of it.
package machinetest
