// Package base is what commands are built on: the flags that say where the head's folders and
// the coordinator's socket are, a client of the coordinator and what to say where none
// answers, a person's consent to what can't be undone, and output as JSON.
package base
