package agentapi

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"lighter/internal/api"
	"lighter/store"
)

// The gate: what an agent says is believed only as far as it can be right, and fits what it
// was asked. What is here is all that a Client returns of an answer; its user need not
// check again. Whether it is true is another question, which signatures answer.

// Fault is the error of what an agent may not do: an answer that cannot be right, or none in
// time. The machine is to blame for it.
type Fault struct {
	Request string // that it was about, such as "GET /v1/machine"
	Problem string // for people; printable
}

func (f *Fault) Error() string { return "its agent: " + f.Request + ": " + f.Problem }

// fault makes a Fault of what is wrong with an answer.
func fault(request string, err error) error {
	return &Fault{Request: Printable(request, api.MaxProblem), Problem: Printable(err.Error(), api.MaxProblem)}
}

// Asked says of a build what an agent's answer about it must agree with.
type Asked struct {
	ID string
	// Attempt is the one that it must be about; 0 is any.
	Attempt int
	// Derivation and Outputs are what is built, and all that it makes, by name; if empty they
	// are not known.
	Derivation store.Path
	Outputs    map[string]store.Path
	// Check says that a check was asked for: then outputs may be missing, and their references.
	Check bool
	// State is the one that it was in when it was last heard of; empty if it was not.
	State string
}

// check returns why a machine cannot be like that, and makes its texts printable.
func (m *Machine) check() error {
	if m.Protocol != Protocol {
		*m = Machine{Protocol: m.Protocol, Version: Printable(m.Version, api.MaxName)}
		return nil // nothing else of it is understood
	}
	m.Version, m.Kernel = Printable(m.Version, api.MaxName), Printable(m.Kernel, api.MaxName)
	m.Hostname, m.StoreKind, m.ID = Printable(m.Hostname, api.MaxName), Printable(m.StoreKind, api.MaxName), Printable(m.ID, api.MaxName)
	m.BuildProblem, m.BuildWarning = Printable(m.BuildProblem, api.MaxProblem), Printable(m.BuildWarning, api.MaxProblem)
	m.Hardware.CPU, m.Hardware.Kernel = Printable(m.Hardware.CPU, api.MaxName), Printable(m.Hardware.Kernel, api.MaxName)
	for _, size := range []*int64{&m.FreeDisk, &m.FreeMemory, &m.FreeInodes, &m.BuildFreeDisk, &m.BuildFreeInodes} {
		*size = min(max(*size, -1), maxSize) // some file systems have no end
	}
	m.CPUPressure, m.MemoryPressure = max(m.CPUPressure, -1), max(m.MemoryPressure, -1)
	if len(m.PublicKey) > maxKey {
		return fmt.Errorf("publicKey: it has %d bytes, more than %d", len(m.PublicKey), maxKey)
	}
	m.PublicKey = printableLines(m.PublicKey)
	if _, err := store.ParseDir(string(m.StoreDir)); err != nil || len(m.StoreDir) > api.MaxPath {
		return fmt.Errorf("storeDir: %q is not a folder's name", api.Cut(string(m.StoreDir), api.MaxName))
	}
	return errors.Join(m.checkNumbers(), checkTexts("systems", m.Systems, maxSystems), checkTexts("emulated", m.Emulated, maxSystems), checkTexts("acceptsKeys", m.AcceptsKeys, maxKeys))
}

func (m *Machine) checkNumbers() error {
	for _, rule := range []struct {
		name       string
		value, max float64
	}{
		{"cores", float64(m.Cores), maxCores},
		{"hardware: cores", float64(m.Hardware.Cores), maxCores},
		{"hardware: memory", float64(m.Hardware.Memory), maxSize},
		{"load", m.Load, maxLoad},
		{"ownLoad", m.OwnLoad, maxLoad},
		{"uptime", float64(m.Uptime), float64(maxUptime)},
		{"running", float64(m.Running), maxCount},
		{"pid", float64(m.PID), maxCount},
		{"cpuPressure", m.CPUPressure + 1, 101},
		{"memoryPressure", m.MemoryPressure + 1, 101},
	} {
		if math.IsNaN(rule.value) || rule.value < 0 || rule.value > rule.max {
			return fmt.Errorf("%s: %g is out of range", rule.name, rule.value)
		}
	}
	return nil
}

// checkTexts checks a list of short texts, and makes them printable.
func checkTexts(name string, list []string, limit int) error {
	if len(list) > limit {
		return fmt.Errorf("%s: there are %d, more than %d", name, len(list), limit)
	}
	for i := range list {
		list[i] = Printable(list[i], api.MaxName)
	}
	return nil
}

// printableLines is Printable for a text whose lines matter.
func printableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = Printable(lines[i], maxKey)
	}
	return strings.Join(lines, "\n")
}

// check returns why a build cannot be like that, or not the one that was asked about. It
// makes texts printable, and drops what means nothing in its state.
func (s *BuildStatus) check(asked *Asked) error {
	switch {
	case s.ID != asked.ID:
		return fmt.Errorf("it is about build %q instead of %s", api.Cut(s.ID, api.MaxID), asked.ID)
	case s.Attempt < 1 || s.Attempt > api.MaxAttempt:
		return fmt.Errorf("attempt %d of build %s: that is not the number of one", s.Attempt, s.ID)
	case asked.Attempt != 0 && s.Attempt != asked.Attempt:
		return fmt.Errorf("it is about attempt %d of build %s instead of %d", s.Attempt, s.ID, asked.Attempt)
	case s.Derivation == "" || asked.Derivation != "" && s.Derivation != asked.Derivation:
		return fmt.Errorf("build %s is of %q instead of %s", s.ID, s.Derivation, asked.Derivation)
	case s.LogSize < 0 || s.LogSize > maxNARSize:
		return fmt.Errorf("build %s has a log of %d bytes", s.ID, s.LogSize)
	case s.Written < 0:
		return fmt.Errorf("build %s has written %d bytes", s.ID, s.Written)
	}
	if err := follows(asked.State, s.State); err != nil {
		return fmt.Errorf("build %s: %w", s.ID, err)
	}
	if s.State != Rooted {
		s.Missing = nil
	}
	if err := checkMeasured(s.Measured); err != nil {
		return fmt.Errorf("build %s: measured: %w", s.ID, err)
	}
	if !s.Finished() {
		s.Measured = nil
	}
	if s.State != Failed {
		s.Failure = nil
	}
	if s.State != Succeeded {
		s.Outputs, s.AlreadyValid = nil, false
		return checkFailure(s.Failure)
	}
	if s.Partial && s.Outputs == nil {
		return nil
	}
	return s.checkOutputs(asked)
}

// follows returns why a build that was in one state cannot be in another after that.
func follows(before, state string) error {
	switch state {
	case Rooted, Running, Succeeded, Failed, Canceled:
	default:
		return fmt.Errorf("%q is not a state", api.Cut(state, api.MaxName))
	}
	switch before {
	case "", Rooted, state:
		return nil
	case Running:
		if state != Rooted {
			return nil
		}
	}
	return fmt.Errorf("it was %s, and cannot be %s after that", before, state)
}

func (s *BuildStatus) checkOutputs(asked *Asked) error {
	var sum int64
	for _, name := range slices.Sorted(maps.Keys(s.Outputs)) {
		info := s.Outputs[name]
		if info == nil {
			return fmt.Errorf("output %q of build %s is nothing", api.Cut(name, api.MaxName), s.ID)
		}
		if err := checkInfo(info, s.Derivation.Dir()); err != nil {
			return fmt.Errorf("output %q of build %s: %w", api.Cut(name, api.MaxName), s.ID, err)
		}
		if sum += info.NARSize; sum > maxNARSize {
			return fmt.Errorf("the outputs of build %s have more than %d bytes", s.ID, int64(maxNARSize))
		}
		if len(asked.Outputs) == 0 {
			continue
		}
		if asked.Outputs[name] != info.Path {
			return fmt.Errorf("build %s says that it made %s as output %q, which is not one of %s", s.ID, info.Path, api.Cut(name, api.MaxName), s.Derivation)
		}
	}
	if asked.Check {
		return nil // what is compared may be a part; see store.BuildRequest
	}
	for name, path := range asked.Outputs {
		if s.Outputs[name] == nil {
			return fmt.Errorf("build %s succeeded, but does not say that it made %s", s.ID, path)
		}
	}
	return nil
}

// checkInfo returns why an item cannot be like that. Which it is, the caller checks.
func checkInfo(info *store.Info, dir store.Dir) error {
	switch {
	case info.Path == "" || info.Path.Dir() != dir:
		return fmt.Errorf("%q is not an item of %s", info.Path, dir)
	case info.NARSize <= 0 || info.NARSize > maxNARSize:
		return fmt.Errorf("%s has %d bytes", info.Path, info.NARSize)
	case info.NARHash.IsZero():
		return fmt.Errorf("%s has no hash", info.Path)
	case info.Deriver != "" && info.Deriver.Dir() != dir:
		return fmt.Errorf("the deriver of %s is %s", info.Path, info.Deriver)
	}
	seen := make(map[store.Path]bool, len(info.References))
	for _, ref := range info.References {
		if ref == "" || ref.Dir() != dir || seen[ref] {
			return fmt.Errorf("%s refers to %q, which is not an item, or twice", info.Path, ref)
		}
		seen[ref] = true
	}
	return nil
}

// failureKinds are the ways in which an agent says that a derivation failed, or that its machine
// can't build it.
var failureKinds = []string{
	string(store.FailedExit), string(store.FailedKilled), string(store.FailedTimeout), string(store.FailedSilence), string(store.FailedOutput),
	string(store.FailedHashMismatch), string(store.FailedReferences), string(store.FailedDownload), string(store.FailedDifference),
	string(store.FailedLimit), string(store.FailedDiskFull), api.KindUnable,
}

// checkFailure returns why a build cannot have failed like that; nil is no reason given.
func checkFailure(f *api.Failure) error {
	switch {
	case f == nil:
		return nil
	case f.Culprit != api.CulpritDerivation && f.Culprit != api.CulpritMachine:
		return fmt.Errorf("%q is to blame for the failure: neither machine nor derivation", api.Cut(string(f.Culprit), api.MaxName))
	case f.Kind != "" && !slices.Contains(failureKinds, f.Kind), f.Kind == api.KindUnable && f.Culprit != api.CulpritMachine:
		return fmt.Errorf("%q is not a kind of failure", api.Cut(f.Kind, api.MaxName))
	case f.ExitCode < 0 || f.ExitCode > maxExit:
		return fmt.Errorf("%d is not an exit code", f.ExitCode)
	}
	*f = api.Failure{
		Culprit: f.Culprit, Phase: api.Building, Kind: f.Kind, ExitCode: f.ExitCode,
		Message: Printable(f.Message, api.MaxMessage), KeptIn: Printable(f.KeptIn, api.MaxPath),
	}
	return nil
}

// checkMeasured returns why no build can have used that; nil says nothing.
func checkMeasured(m *store.Measured) error {
	if m == nil {
		return nil
	}
	for _, rule := range []struct {
		name       string
		value, max float64
	}{
		{"cpu", m.CPU, maxCPU},
		{"peakMemory", float64(m.PeakMemory), maxSize},
		{"disk", float64(m.Disk), maxSize},
		{"memoryLimit", float64(m.MemoryLimit), maxSize},
	} {
		if math.IsNaN(rule.value) || rule.value < 0 || rule.value > rule.max {
			return fmt.Errorf("%s: %g is out of range", rule.name, rule.value)
		}
	}
	if m.Method != "" && m.Method != store.MeasuredCgroup && m.Method != store.MeasuredProcesses {
		return fmt.Errorf("%q is not a method", api.Cut(string(m.Method), api.MaxName))
	}
	m.Unmeasured = Printable(m.Unmeasured, api.MaxProblem)
	return nil
}

// checkMissing returns why an agent cannot lack these items of a request's.
func checkMissing(missing []store.Path, asked ...[]store.Path) error {
	if len(missing) == 0 {
		return nil
	}
	known := make(map[store.Path]bool)
	for _, paths := range asked {
		for _, p := range paths {
			known[p] = true
		}
	}
	for _, p := range missing {
		if !known[p] {
			return fmt.Errorf("it lacks %q, which it was not told of, or twice", p)
		}
		delete(known, p)
	}
	return nil
}

// check makes an error of an agent's what callers can branch on and people read.
func (e *Error) check() {
	if !slices.Contains(codes, e.Code) {
		e.Code = ""
	}
	e.Message = Printable(e.Message, api.MaxMessage)
}
