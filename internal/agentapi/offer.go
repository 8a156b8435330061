package agentapi

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"lighter/internal/api"
)

// Offer is what the owner of a machine lets a head ask for, where the head lacks the
// account itself: behind a forced command and behind "lighter agent --listen".
type Offer struct {
	// SandboxPaths, as in BuildRequest. A request chooses one by its whole text, or by its
	// name inside.
	SandboxPaths []string `json:"sandboxPaths,omitempty"`
	// Unusable says of some of them why they cannot be had.
	Unusable map[string]string `json:"unusable,omitempty"`
	// SubstituteURLs are the servers that requests may name.
	SubstituteURLs []string `json:"substituteURLs,omitempty"`
	// KeepFailed and CollectGarbage say whether a head may ask for that.
	KeepFailed     bool `json:"keepFailed,omitempty"`
	CollectGarbage bool `json:"collectGarbage,omitempty"`
	// MaxBuilds is how many builds run at a time; 0 means no bound.
	MaxBuilds int `json:"maxBuilds,omitempty"`
	// MaxCores, MaxTime and MaxSilentTime bound what requests ask for; 0 means no bound.
	MaxCores      int         `json:"maxCores,omitempty"`
	MaxTime       api.Seconds `json:"maxTime,omitempty"`
	MaxSilentTime api.Seconds `json:"maxSilentTime,omitempty"`
}

// Choose returns the sandbox path that a machine's entry means with a text, as the owner
// has written it. Without an offer it is the text itself.
func (o *Offer) Choose(text string) (sandboxPath string, ok bool) {
	if o == nil || slices.Contains(o.SandboxPaths, text) {
		return text, true
	}
	for _, offered := range o.SandboxPaths {
		inside, outside, _ := strings.Cut(offered, "=")
		if text == inside || text == inside+"="+outside || outside == "" && text == inside+"="+inside {
			return offered, true
		}
	}
	return "", false
}

// HasServer reports whether requests may name a substitute server.
func (o *Offer) HasServer(url string) bool {
	same := func(offered string) bool { return strings.TrimRight(offered, "/") == strings.TrimRight(url, "/") }
	return o == nil || slices.ContainsFunc(o.SubstituteURLs, same)
}

// maxRefused is how many things of a kind Refuses names.
const maxRefused = 3

// Refuses says what a machine's entry asks for that its owner does not offer, and what to
// do about it; empty if that is nothing.
func (o *Offer) Refuses(sandboxPaths, substituteURLs []string, parallelBuilds int) string {
	var refused []string
	if o != nil && o.MaxBuilds > 0 && parallelBuilds > o.MaxBuilds {
		refused = append(refused, fmt.Sprintf("its owner lets %d builds run at a time: set parallel-builds to that, not to %d", o.MaxBuilds, parallelBuilds))
	}
	if o != nil {
		for _, text := range sandboxPaths {
			if chosen, ok := o.Choose(text); ok && o.Unusable[chosen] != "" && len(refused) < maxRefused {
				refused = append(refused, fmt.Sprintf("the sandbox path %q, which its owner offers, cannot be had: %s", text, o.Unusable[chosen]))
			}
		}
	}
	for _, kind := range []struct {
		key, what string
		asked     []string
		offered   func(string) bool
	}{
		{"sandbox-paths", "sandbox path", sandboxPaths, func(text string) bool { _, ok := o.Choose(text); return ok }},
		{"substitute-urls", "substitute server", substituteURLs, o.HasServer},
	} {
		not := slices.DeleteFunc(slices.Clone(kind.asked), kind.offered)
		for i, text := range not[:min(len(not), maxRefused)] {
			not[i] = fmt.Sprintf("%q", text)
		}
		if more := len(not) - maxRefused; more > 0 {
			not = append(not[:maxRefused], fmt.Sprintf("%d more", more))
		}
		if len(not) > 0 {
			refused = append(refused, fmt.Sprintf("its owner does not offer the %s %s: take it out of %s, or ask the owner to put it into %s of %s there",
				kind.what, strings.Join(not, ", "), kind.key, kind.key, OwnerFile))
		}
	}
	return strings.Join(refused, "; ")
}

// OwnerFile is how the file is called in which an owner writes the offer.
const OwnerFile = "agent.toml"

// CheckSandboxPath says what is wrong with a sandbox path that an owner offers.
func CheckSandboxPath(text string) error {
	inside, outside, two := strings.Cut(text, "=")
	if !two {
		outside = inside
	}
	for _, name := range []string{inside, outside} {
		if !path.IsAbs(name) || path.Clean(name) != name {
			return fmt.Errorf("%q is not an absolute file name without . and .. in it", name)
		}
	}
	if inside == "/" {
		return errors.New("the whole file system cannot be at / inside")
	}
	return nil
}
