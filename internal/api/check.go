package api

import (
	"fmt"
	"slices"
	"strings"

	"lighter/store"
)

// CheckPrune says what is wrong with a request to prune.
func CheckPrune(p *Prune) error {
	if p.OlderThan <= 0 || p.OlderThan > MaxTime {
		return BadRequest("olderThan %v: want how many seconds ago builds must have ended, up to %v", float64(p.OlderThan), float64(MaxTime))
	}
	if len(p.States) > len(States()) {
		return BadRequest("%d states, there are %v", len(p.States), States())
	}
	for _, s := range p.States {
		if !slices.Contains(States(), s) {
			return BadRequest("state %q: there is no such state", s)
		}
		if !s.Final() {
			return BadRequest("state %s: only builds that are final can leave the ledger", s)
		}
	}
	return nil
}

// CheckRequest says what is wrong with a request for a build whose derivation is to be in a store.
func CheckRequest(r *Request, dir store.Dir) error {
	switch {
	case r.Derivation == "":
		return BadRequest("derivation is missing")
	case !r.Derivation.IsDerivation():
		return BadRequest("%s is not a derivation: its name does not end in .drv", r.Derivation)
	case r.Derivation.Dir() != dir:
		return BadRequest("%s is not in the store %s", r.Derivation, dir)
	case r.Timeout < 0 || r.MaxSilentTime < 0 || r.Timeout > MaxTime || r.MaxSilentTime > MaxTime:
		return BadRequest("timeout and maxSilentTime are not negative, and at most %v seconds", float64(MaxTime))
	case len(r.Outputs) > MaxOutputs:
		return BadRequest("%d outputs, at most %d are taken", len(r.Outputs), MaxOutputs)
	case r.Retries < -1 || r.Retries > MaxRetries:
		return BadRequest("retries %d is not in -1 (none) to %d", r.Retries, MaxRetries)
	case r.Check < 0 || r.Check > MaxChecks:
		return BadRequest("check %d is not in 0 to %d", r.Check, MaxChecks)
	case r.Priority < -MaxPriority || r.Priority > MaxPriority:
		return BadRequest("priority %d is not in %d to %d", r.Priority, -MaxPriority, MaxPriority)
	case r.Memory != 0 && (r.Memory < MinMemory || r.Memory > MaxMemory):
		return BadRequest("memory %d is not in %d to %d bytes", r.Memory, MinMemory, int64(MaxMemory))
	case len(r.On)+len(r.Skip) > MaxMachines:
		return BadRequest("%d names of machines, at most %d are taken", len(r.On)+len(r.Skip), MaxMachines)
	case len(r.DerivationSubstituteURLs) > MaxURLs:
		return BadRequest("%d substitute URLs, at most %d are taken", len(r.DerivationSubstituteURLs), MaxURLs)
	case r.Offload && (r.Check > 0 || r.AllInputs || r.SkipIfBuilt || r.SkipIfSubmitted):
		return BadRequest("guix-daemon asks for one build, and no more")
	}
	if err := checkTexts(r); err != nil {
		return BadRequest("%s", err)
	}
	if r.ID != "" && !IsUUID(r.ID) {
		return BadRequest("id %.60q is not a UUID in lower case", r.ID)
	}
	return nil
}

// IsUUID reports whether an id is a UUID as it is written by everybody, in lower case.
func IsUUID(id string) bool {
	if len(id) != len("00000000-0000-0000-0000-000000000000") {
		return false
	}
	for i, c := range []byte(id) {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if !strings.ContainsRune("0123456789abcdef", rune(c)) {
				return false
			}
		}
	}
	return true
}

// checkTexts says what is wrong with the texts of a request, each by itself and together.
func checkTexts(r *Request) error {
	size := 0
	for _, of := range []struct {
		what  string
		texts []string
		most  int
	}{
		{"the name of an output", r.Outputs, MaxName},
		{"the name of a machine", r.On, MaxName},
		{"the name of a machine", r.Skip, MaxName},
		{"a substitute URL", r.DerivationSubstituteURLs, MaxURL},
	} {
		for _, text := range of.texts {
			size += len(text)
			if err := CheckText(of.what, text, of.most); err != nil {
				return err
			}
		}
	}
	for k, v := range r.Tags {
		size += len(k) + len(v)
	}
	if err := CheckTags(r.Tags); err != nil {
		return err
	}
	if err := CheckTokens(r.Tokens); err != nil {
		return err
	}
	for name := range r.Tokens {
		size += len(name)
	}
	// What JSON makes of plain text is less than twice as long.
	if size > MaxRequest/2 {
		return fmt.Errorf("names, tags and URLs have %d bytes, at most %d are taken", size, MaxRequest/2)
	}
	return nil
}
