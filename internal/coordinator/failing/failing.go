// Package failing is how a derivation has failed so far, and the failures that the coordinator itself finds.
package failing

import (
	"fmt"
	"slices"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/unable"
	"lighter/internal/human"
	"lighter/store"
)

// Record has the failures of a derivation's attempts. The zero value is that of one that has not failed.
type Record struct {
	List   []api.Failure // the newest last
	Blamed int           // those for reasons other than the derivation
	Unable unable.List   // machines that can't build it
	rounds int           // how often all machines had failed
}

// Add notes a failure.
func (r *Record) Add(f *api.Failure) { r.List = append(r.List, *f) }

// Blame notes one that is not the derivation's.
func (r *Record) Blame(f *api.Failure) {
	r.Add(f)
	r.Blamed++
}

// Recall notes, after a restart, the last failure of a build, of which so many had not been the derivation's.
func (r *Record) Recall(f *api.Failure, blamed int) {
	if !slices.ContainsFunc(r.List, func(other api.Failure) bool { return other == *f }) {
		r.Add(f)
		r.Blamed = max(r.Blamed, blamed)
	}
}

// maxDelay bounds the time before a build is tried on all machines again.
const maxDelay = 5 * time.Minute

// Delay returns how long it is not tried after all machines have failed: first, and each time longer.
func (r *Record) Delay(first time.Duration) time.Duration {
	delay := min(first<<min(r.rounds, 20), maxDelay)
	r.rounds++
	return delay
}

// Before says why the attempt before failed, for the next one; empty if there was none.
func (r *Record) Before() string {
	if n := len(r.List); n > 0 {
		return "; before that " + r.List[n-1].Short()
	}
	return ""
}

// All is the failure of a build that has used up its attempts.
func (r *Record) All(last *api.Failure) *api.Failure {
	var causes []string
	for i := range r.List {
		if text := r.List[i].Error(); !slices.Contains(causes, text) {
			causes = append(causes, text)
		}
	}
	f := *last
	f.Message = fmt.Sprintf("%d attempts failed: ", r.Blamed)
	f.Message += api.ListUpTo(causes, "; ", api.MaxMessage-len(f.Message))
	return &f
}

// Refused is the failure of a build that no machine can build.
func (r *Record) Refused(last *api.Failure) *api.Failure {
	f := *last
	f.Message = "no machine can build it: "
	f.Message += api.ListUpTo(r.Unable.Reasons(), "; ", api.MaxMessage-len(f.Message))
	return &f
}

// ---- what the coordinator finds --------------------------------------------------------------

// Unreadable is the failure of a build whose graph can't be read, perhaps because of an input.
func Unreadable(input store.Path, err error) *api.Failure {
	f := &api.Failure{Culprit: api.CulpritCoordinator, Phase: api.Queued, Message: err.Error()}
	if input != "" {
		f.Kind, f.Input = api.KindDependency, input
	}
	return f
}

// OfInput is the failure of a build that needs one that failed.
func OfInput(input store.Path, f *api.Failure) *api.Failure {
	text := fmt.Sprintf("needs %s, which failed", api.DerivationName(input))
	if f.Kind == api.KindNotRecorded { // perhaps the ledger does not even have that build
		text = api.Cut(text+": "+f.Message, api.MaxMessage)
	}
	return &api.Failure{Culprit: f.Culprit, Phase: api.Waiting, Kind: api.KindDependency, Input: input, Message: text}
}

// NoSource is the failure of a build one of whose sources is gone.
func NoSource(source store.Path) *api.Failure {
	return &api.Failure{
		Culprit: api.CulpritCoordinator, Phase: api.Sending,
		Message: fmt.Sprintf("source %s is not in the head's store", source),
	}
}

// InputsLost is the failure of a build whose inputs were lost again and again.
func InputsLost(times int, last store.Path) *api.Failure {
	return &api.Failure{
		Culprit: api.CulpritCoordinator, Phase: api.Sending,
		Message: fmt.Sprintf("inputs were lost %d times, the last time %s", times, last),
	}
}

// NotRecorded is the failure of a build about which the ledger refuses a change.
func NotRecorded(cause error) *api.Failure {
	return &api.Failure{
		Culprit: api.CulpritCoordinator, Phase: api.Queued, Kind: api.KindNotRecorded,
		Message: api.Cut("the ledger refuses what became of it: "+cause.Error(), api.MaxMessage),
	}
}

// TooFew is the failure of a check that wants more machines than can build it. shared says that some entries are one host.
func TooFew(wanted, can int, shared bool) *api.Failure {
	text := fmt.Sprintf("--check %d wants %s, and only %d can build it", wanted, human.Count(wanted, "machine"), can)
	if shared {
		text += " (entries of one host count once)"
	}
	return &api.Failure{Culprit: api.CulpritMachine, Phase: api.Queued, Kind: api.KindUnable, Message: text}
}

// Of is that of a build that did not succeed; where it has none, as one that was canceled, its reason.
func Of(b *api.Build) *api.Failure {
	if b.Failure != nil {
		return b.Failure
	}
	return &api.Failure{Culprit: api.CulpritCoordinator, Phase: api.Waiting, Message: b.Reason}
}
