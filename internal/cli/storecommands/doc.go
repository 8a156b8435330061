// Package storecommands are "lighter store" and its subcommands: what the head's store has, what
// goes, and what is kept.
package storecommands
