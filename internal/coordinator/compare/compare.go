// Package compare carries out a check: a derivation is built once, then again on other machines,
// and what they made is compared.
package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"lighter/internal/api"
	"lighter/internal/coordinator/buildlog"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/peer"
	"lighter/internal/coordinator/remote"
	"lighter/internal/human"
	"lighter/nar"
	"lighter/store"

	"github.com/google/uuid"
)

// Farm is what a check needs of its coordinator.
type Farm interface {
	// Have has a plain build made for the check, and returns it once it has succeeded. If the
	// build ends otherwise the error is a *BuildError.
	Have(ctx context.Context, r api.Request) (*api.Build, error)
	// Begin has work done on want machines, but not on the one named by but, if any.
	Begin(ctx context.Context, w *Work, but string, want int) error
	// Again has the work done on one more machine, since m says nothing of the derivation. If
	// there have been too many of those it returns why.
	Again(ctx context.Context, m *Made, why error) error
	// Made delivers what machines made.
	Made() <-chan *Made
	// Drop allows a machine to drop what it made.
	Drop(m *Made)
	// Tell reports how far the check is.
	Tell(s api.State, reason string, results []api.CheckResult)
}

// Work is what each machine builds.
type Work struct {
	Node   *headstore.Node
	Inputs []store.Path // outputs of inputs, and sources
}

// Made is what one machine made.
type Made struct {
	Machine *peer.Peer
	Name    string // of the entry through which it was placed there
	ID      string // of the build there
	Attempt int
	Outcome *remote.Outcome
	Err     error // instead of an Outcome
}

// BuildError says that a plain build that a check needs did not succeed.
type BuildError struct {
	Build   *api.Build
	Failure *api.Failure
}

func (e *BuildError) Error() string { return e.Failure.Message }

// Conclusion is what became of a check.
type Conclusion struct {
	State   api.State
	Reason  string
	Failure *api.Failure // nil unless it failed
	Results []api.CheckResult
	Outputs map[string]store.Path // of the derivation; nil if that could not be read
}

// partID returns the id of something that is done for a check. It is always the same, so that a
// restarted coordinator finds what has been done.
func partID(check, name string) string {
	space, err := uuid.Parse(check)
	if err != nil { // no client can ask for such an id
		space = uuid.NewSHA1(uuid.NameSpaceOID, []byte(check))
	}
	return uuid.NewSHA1(space, []byte(name)).String()
}

// ID returns the id of the nth comparison of a check, from 0.
func ID(check string, n int) string { return partID(check, fmt.Sprint("comparison ", n)) }

// LogsOf returns the last logs that a build may have, which may be a check: those of earlier attempts have the same ids. A
// check may have had as many pieces of work on machines as it asks for, and fewer than vain in vain.
func LogsOf(b *api.Build, vain int) []buildlog.Name {
	list := []buildlog.Name{{ID: b.ID, Attempt: b.Attempt}}
	if b.Shares != "" {
		list = append(list, buildlog.Name{ID: b.Shares, Attempt: b.Attempt})
	}
	if b.Check > 0 {
		for i := range b.Check + vain {
			list = append(list, buildlog.Name{ID: ID(b.ID, i), Attempt: 1})
		}
	}
	return list
}

// check is one check.
type check struct {
	farm    Farm
	head    *headstore.Store
	req     api.Request
	work    Work
	results []api.CheckResult
	measure map[string]string // hashes of the outputs at home, by output name
}

// Run carries out the check that a request asks for, until ctx ends: first a plain build, whose
// outputs are the measure, then builds on other machines, at the same time if there are slots.
func Run(ctx context.Context, farm Farm, head *headstore.Store, req api.Request) *Conclusion {
	k := &check{farm: farm, head: head, req: req}
	err := k.run(ctx)
	end := &Conclusion{Results: k.results}
	end.State, end.Reason, end.Failure = k.conclude(err)
	if k.work.Node != nil {
		end.Outputs = k.work.Node.OutputMap()
	}
	return end
}

func (k *check) run(ctx context.Context) error {
	n, err := k.head.Node(ctx, k.req.Derivation)
	if err != nil {
		return err
	}
	k.work.Node = n
	want := k.req.Check
	if err := k.needs(ctx); err != nil {
		return err
	}
	k.tell(api.Waiting, "it is built once first, to compare with that")
	plain := k.req
	plain.ID, plain.Check, plain.On = partID(k.req.ID, "measure"), 0, nil
	b, err := k.have(ctx, plain)
	if ended := (*BuildError)(nil); errors.As(err, &ended) && ended.Build.Attempt > 0 {
		f := *ended.Failure
		k.results = append(k.results, firstResult(ended.Build))
		k.results[0].Failure = &f
	}
	if err != nil {
		return err
	}
	first := firstResult(b)
	if b.Machine == "" {
		first.Machine = api.TheHead
	} else {
		want--
	}
	if first.Hashes, err = k.homeHashes(ctx); err != nil {
		return err
	}
	k.measure = first.Hashes
	k.results = append(k.results, first)
	if want == 0 {
		return nil
	}
	return k.compare(ctx, b.Machine, want)
}

// needs has whatever the derivation needs built or brought home.
func (k *check) needs(ctx context.Context) error {
	k.work.Inputs = append(k.work.Inputs, k.work.Node.Sources...)
	for _, in := range k.work.Node.Inputs {
		n, err := k.head.Node(ctx, in)
		if err != nil {
			return err
		}
		paths, err := n.OutputPaths(k.work.Node.InputOutputs(in))
		if err != nil {
			return err
		}
		k.work.Inputs = append(k.work.Inputs, paths...)
		absent, err := store.Missing(ctx, k.head.Backend, paths)
		if err != nil {
			return err
		}
		if len(absent) == 0 {
			continue
		}
		k.tell(api.Waiting, "waits for "+in.String())
		r := api.Request{
			ID: partID(k.req.ID, in.String()), Derivation: in, Outputs: k.work.Node.InputOutputs(in), Priority: k.req.Priority, Tags: k.req.Tags,
			Timeout: k.req.Timeout, MaxSilentTime: k.req.MaxSilentTime, Retries: k.req.Retries,
		}
		if _, err := k.have(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// firstResult is the result of the plain build, without its hashes.
func firstResult(b *api.Build) api.CheckResult {
	r := api.CheckResult{Machine: b.Machine, BuildTime: b.BuildTime}
	if b.Attempt > 0 {
		r.LogID, r.LogAttempt = b.LogID(), b.Attempt
	}
	return r
}

func (k *check) homeHashes(ctx context.Context) (map[string]string, error) {
	hashes := make(map[string]string, len(k.work.Node.Outputs))
	for _, o := range k.work.Node.Outputs {
		info, err := k.head.Info(ctx, o.Path)
		if err != nil {
			return nil, err
		}
		hashes[o.Name] = store.EncodeBase32(info.NARHash[:])
	}
	return hashes, nil
}

// compare has the derivation built on want machines, but not on but, and compares.
func (k *check) compare(ctx context.Context, but string, want int) error {
	if err := k.farm.Begin(ctx, &k.work, but, want); err != nil {
		return err
	}
	for done := 0; done < want; {
		var x *Made
		select {
		case x = <-k.farm.Made():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if again := k.judge(ctx, x); again != nil {
			if err := k.farm.Again(ctx, x, again); err != nil {
				return err
			}
			continue
		}
		done++
		k.tell(api.Building, fmt.Sprintf("%d of %d machines are done", done, want))
	}
	return nil
}

// tell tells how far the check is.
func (k *check) tell(s api.State, reason string) { k.farm.Tell(s, reason, slices.Clone(k.results)) }

// have has a plain build made for the check alone.
func (k *check) have(ctx context.Context, r api.Request) (*api.Build, error) {
	r.AllInputs, r.SkipIfBuilt, r.SkipIfSubmitted, r.Attached = false, false, false, false
	return k.farm.Have(ctx, r)
}

// judge notes what a machine made. It returns an error if it made nothing and the machine, not the
// derivation, is to blame.
func (k *check) judge(ctx context.Context, x *Made) error {
	defer k.farm.Drop(x)
	result := api.CheckResult{Machine: x.Name, LogID: x.ID, LogAttempt: x.Attempt}
	if x.Err != nil {
		var f *api.Failure
		if !errors.As(x.Err, &f) || !f.Final() {
			return x.Err
		}
		if f.Kind == string(store.FailedDifference) {
			result.Differs = []string{"files that are not known: " + f.Message}
		} else {
			result.Failure = f
		}
		k.results = append(k.results, result)
		return nil
	}
	result.BuildTime = api.Seconds(x.Outcome.BuildTime.Seconds())
	if err := k.compareOutputs(ctx, x, &result); err != nil {
		return err
	}
	k.results = append(k.results, result)
	return nil
}

// compareOutputs fills in what a machine made, and how it differs. A machine that stops at the
// first output that differs says nothing of the others: that is an error only if all that it does
// say is as expected.
func (k *check) compareOutputs(ctx context.Context, x *Made, result *api.CheckResult) error {
	result.Hashes = make(map[string]string)
	var untold error
	for _, o := range k.work.Node.Outputs {
		info := x.Outcome.Outputs[o.Name]
		if info == nil {
			untold = &api.Failure{
				Culprit: api.CulpritMachine, Phase: api.Building, Machine: x.Name,
				Message: fmt.Sprintf("it does not say what it made of %s", o.Path),
			}
			continue
		}
		result.Hashes[o.Name] = store.EncodeBase32(info.NARHash[:])
		if result.Hashes[o.Name] == k.measure[o.Name] {
			continue
		}
		files, err := k.differing(ctx, x, o.Name, o.Path)
		if err != nil {
			files = []string{fmt.Sprintf("%s (the files were not compared: %s)", o.Name, err)}
		}
		result.Differs = append(result.Differs, files...)
	}
	if len(result.Differs) > 0 {
		return nil
	}
	return untold
}

// maxDiffering bounds the files that a result names.
const maxDiffering = 100

// differing compares an output at home with what a machine made.
func (k *check) differing(ctx context.Context, x *Made, name string, path store.Path) ([]string, error) {
	theirs, err := x.Machine.Client.Output(ctx, x.ID, name)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	ours, pipe := io.Pipe()
	var writer sync.WaitGroup
	defer writer.Wait()
	defer ours.Close() // which ends the writer
	writer.Go(func() { pipe.CloseWithError(k.head.WriteNAR(ctx, pipe, path)) })
	var files []string
	var total int
	err = x.Machine.Contain("comparing what it made", func() (err error) {
		files, total, err = nar.Compare(ours, theirs, maxDiffering)
		return err
	})
	if err != nil {
		return nil, err
	}
	return listed(name, files, total), nil
}

// listed is what nar.Compare says of an output's files, for people.
func listed(output string, files []string, total int) []string {
	list := make([]string, 0, len(files)+1)
	for _, file := range files {
		if file == "." {
			list = append(list, output) // it is not a folder, or one of the two is not
		} else {
			list = append(list, output+"/"+human.FileName(file))
		}
	}
	if n := total - len(files); n > 0 {
		list = append(list, fmt.Sprintf("and %d more", n))
	}
	return list
}

func (k *check) conclude(err error) (api.State, string, *api.Failure) {
	var ended *BuildError
	var machine *api.Failure // the last of too many failures of machines
	switch {
	case errors.As(err, &ended):
		state := ended.Build.State
		if state == api.Canceled {
			state = api.Failed // that one was canceled, not this
		}
		return state, ended.Failure.Message, ended.Failure
	case errors.As(err, &machine):
		return api.Failed, machine.Error(), machine
	case err != nil:
		return api.Failed, err.Error(), &api.Failure{Culprit: api.CulpritCoordinator, Phase: api.Building, Message: err.Error()}
	}
	if text := k.differences(); text != "" {
		return api.Failed, text, &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Kind: api.KindDiffers, Message: text}
	}
	if k.results[0].Machine == api.TheHead {
		return api.Succeeded, human.Count(len(k.results)-1, "machine") + " made what the head has", nil
	}
	return api.Succeeded, human.Count(len(k.results), "machine") + " made the same", nil
}

// differences says which machines made something else than the first one; empty if none did.
func (k *check) differences() string {
	var other, failed, parts []string
	for _, r := range k.results[1:] {
		switch {
		case r.Failure != nil:
			failed = append(failed, r.Machine)
		case len(r.Differs) > 0:
			other = append(other, r.Machine)
		}
	}
	if len(other) > 0 {
		parts = append(parts, enumerate(other)+" made something else")
	}
	if len(failed) > 0 {
		parts = append(parts, "it fails on "+enumerate(failed))
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("compared with %s: %s", k.results[0].Machine, strings.Join(parts, "; "))
}

// enumerate sorts names and lists them in a text.
func enumerate(names []string) string {
	slices.Sort(names)
	if n := len(names) - 1; n > 0 {
		return strings.Join(names[:n], ", ") + " and " + names[n]
	}
	return names[0]
}
