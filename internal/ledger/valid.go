package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"lighter/internal/api"
	"lighter/scheduler/estimate"
	"lighter/store"
)

// The rules for records. What is written and what is read is checked against the same rules,
// so that nothing is ever written that a later start could not use.

// RecordError is the error of a record that is in the ledger and can't be used. It says
// nothing about other records.
type RecordError struct {
	What string // such as "build 6fa459ea-…" or "event 12"
	Err  error
}

func (e *RecordError) Error() string { return e.What + ": " + e.Err.Error() }

// Unwrap returns what is wrong.
func (e *RecordError) Unwrap() error { return e.Err }

func unusable(err error, format string, args ...any) error {
	return &RecordError{fmt.Sprintf(format, args...), err}
}

func corrupt(key []byte) error {
	return unusable(errors.New("corrupt entry"), "entry %q", key)
}

// isRecordError reports whether an error is about the contents of one record, not about
// reading it.
func isRecordError(err error) bool { return errors.As(err, new(*RecordError)) }

// Names and ids are parts of keys, and ids also of file names. JSON only has UTF-8: other
// texts would read back differently.

func validText(what, text string, limit int) error {
	switch {
	case len(text) > limit:
		return fmt.Errorf("%s %.40q: %d bytes, at most %d are taken", what, text, len(text), limit)
	case !utf8.ValidString(text):
		return fmt.Errorf("%s %.40q is not UTF-8", what, text)
	}
	return nil
}

func validName(what, name string, limit int) error {
	if strings.IndexByte(name, 0) >= 0 {
		return fmt.Errorf("%s %.40q: a zero byte", what, name)
	}
	return validText(what, name, limit)
}

func validNames(what string, names []string, most, limit int) error {
	if len(names) > most {
		return fmt.Errorf("%d %ss, at most %d are taken", len(names), what, most)
	}
	for _, name := range names {
		if err := validName(what, name, limit); err != nil {
			return err
		}
	}
	return nil
}

func checkID(id string) error {
	if id == "" || len(id) > api.MaxID {
		return fmt.Errorf("id %.40q: an id must have 1 to %d bytes", id, api.MaxID)
	}
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c >= 0x7f || c == '/' {
			return fmt.Errorf("id %.40q: %q is not part of an id", id, c)
		}
	}
	return nil
}

func checkAttempt(n int) error { return within("attempt", n, 0, api.MaxAttempt) }

func within[N int | int64](what string, n, least, most N) error {
	if n < least || n > most {
		return fmt.Errorf("%s %d is not in %d to %d", what, n, least, most)
	}
	return nil
}

// finite refuses what JSON can't hold, and what no duration or speed can be.
func finite(what string, n, least, most float64) error {
	if math.IsNaN(n) || n < least || n > most {
		return fmt.Errorf("%s %g is not in %g to %g", what, n, least, most)
	}
	return nil
}

func validPath(what string, path store.Path) error {
	if path == "" {
		return nil
	}
	if len(path) > api.MaxPath {
		return fmt.Errorf("%s %.40q: %d bytes, at most %d are taken", what, path, len(path), api.MaxPath)
	}
	if _, err := store.ParsePath(string(path)); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// validBuild returns what is wrong with a build, or nil.
func validBuild(b *api.Build) error {
	if err := checkID(b.ID); err != nil {
		return err
	}
	if stateCodes[b.State] == 0 {
		return fmt.Errorf("unknown state %.40q", b.State)
	}
	if err := validRequest(&b.Request); err != nil {
		return err
	}
	for _, id := range []string{b.Parent, b.Shares} {
		if id == "" {
			continue
		}
		if err := checkID(id); err != nil {
			return err
		}
	}
	return errors.Join(
		checkAttempt(b.Attempt), within("retried", b.Retried, 0, api.MaxAttempt), within("dependents", b.Dependents, 0, math.MaxInt32),
		validName("system", b.System, api.MaxName), validName("machine", b.Machine, api.MaxName), validName("machine", b.OutputsOn, api.MaxName),
		within("reservedMemory", b.ReservedMemory, 0, math.MaxInt64), validNames("feature", b.Features, api.MaxFeatures, api.MaxName), validText("reason", b.Reason, api.MaxReason),
		validFailure(b.Failure), validOutputs(b.OutputPaths), validResults(b.Results), validMeasured(b.Measured),
	)
}

// validRequest does not look at what only the coordinator uses.
func validRequest(r *api.Request) error {
	if len(r.Tags) > api.MaxTags {
		return fmt.Errorf("%d tags, at most %d are taken", len(r.Tags), api.MaxTags)
	}
	for key, value := range r.Tags {
		if err := errors.Join(validText("tag", key, api.MaxTag), validText("tag", value, api.MaxTag-len(key))); err != nil {
			return err
		}
	}
	return errors.Join(
		api.CheckTokens(r.Tokens), within("memory", r.Memory, 0, api.MaxMemory),
		validPath("derivation", r.Derivation), validName("derivation", api.DerivationName(r.Derivation), api.MaxName),
		validNames("output", r.Outputs, api.MaxOutputs, api.MaxName),
		validNames("machine", r.On, api.MaxMachines, api.MaxName), validNames("machine", r.Skip, api.MaxMachines, api.MaxName),
		validNames("substitute URL", r.DerivationSubstituteURLs, api.MaxURLs, api.MaxURL),
		within("priority", r.Priority, -api.MaxPriority, api.MaxPriority), within("retries", r.Retries, -1, api.MaxRetries),
		within("check", r.Check, 0, api.MaxChecks),
	)
}

func validFailure(f *api.Failure) error {
	if f == nil {
		return nil
	}
	return errors.Join(
		validText("failure", f.Message, api.MaxMessage), validText("culprit", string(f.Culprit), api.MaxName),
		validText("phase", string(f.Phase), api.MaxName), validText("kind", f.Kind, api.MaxName),
		validName("machine", f.Machine, api.MaxName), validPath("input", f.Input), validText("folder", f.KeptIn, api.MaxPath),
	)
}

func validMeasured(m *store.Measured) error {
	if m == nil {
		return nil
	}
	return errors.Join(
		finite("processor time", m.CPU, 0, maxRate), inRange("memory", m.PeakMemory, maxBytes), inRange("disk", m.Disk, maxBytes), inRange("memory", m.MemoryLimit, maxBytes),
		validText("method", string(m.Method), api.MaxName), validText("what was not measured", m.Unmeasured, api.MaxProblem),
	)
}

func validOutputs(paths map[string]store.Path) error {
	if len(paths) > api.MaxOutputs {
		return fmt.Errorf("%d outputs, at most %d are taken", len(paths), api.MaxOutputs)
	}
	for name, path := range paths {
		if err := errors.Join(validName("output", name, api.MaxName), validPath("output "+name, path)); err != nil {
			return err
		}
	}
	return nil
}

func validResults(results []api.CheckResult) error {
	if len(results) > api.MaxChecks+1 { // one more for what the head had before
		return fmt.Errorf("%d results of a check, at most %d are taken", len(results), api.MaxChecks+1)
	}
	for i := range results {
		r := &results[i]
		if len(r.Hashes) > api.MaxOutputs {
			return fmt.Errorf("%d hashes of outputs, at most %d are taken", len(r.Hashes), api.MaxOutputs)
		}
		if r.LogID != "" {
			if err := checkID(r.LogID); err != nil {
				return err
			}
		}
		if err := errors.Join(validName("machine", r.Machine, api.MaxName), checkAttempt(r.LogAttempt), validFailure(r.Failure)); err != nil {
			return err
		}
	}
	return nil
}

// valid returns what is wrong with an event, or nil.
func (s *storedEvent) valid() error {
	if s.State != "" && stateCodes[s.State] == 0 {
		return fmt.Errorf("unknown state %.40q", s.State)
	}
	if s.Build != "" {
		if err := checkID(s.Build); err != nil {
			return err
		}
	}
	return errors.Join(
		checkAttempt(s.Attempt), validText("kind", string(s.Kind), api.MaxName), validName("machine", s.Machine, api.MaxName),
		validText("reason", s.Reason, api.MaxReason), validFailure(s.Failure),
	)
}

// maxSeconds bounds how long a build may have taken: about ten years. Only a wrong clock says
// more.
const maxSeconds = 10 * 366 * 24 * 3600

// maxRate bounds speeds and bandwidths, in whatever unit.
const maxRate = 1e15

func (s *Samples) valid() error {
	if len(s.Samples) > estimate.MaxSamples {
		return fmt.Errorf("%d samples, at most %d are taken", len(s.Samples), estimate.MaxSamples)
	}
	err := validKey(&s.Key)
	for i := range s.Samples {
		err = errors.Join(err, validSample(&s.Samples[i]))
	}
	return err
}

func validKey(k *estimate.Key) error {
	if k.Name == "" || k.System == "" {
		return errors.New("sample without name or system")
	}
	return errors.Join(validName("name", k.Name, api.MaxName), validName("system", k.System, api.MaxName), validKind(k.Kind), validBuildSystem(k.BuildSystem))
}

func validKind(k estimate.Kind) error {
	if !slices.Contains(estimate.Kinds, k) {
		return fmt.Errorf("unknown kind %.40q", k)
	}
	return nil
}

// validBuildSystem bounds how many classes there are.
func validBuildSystem(name string) error {
	if name != "" && !estimate.IsBuildSystem(name) {
		return fmt.Errorf("unknown build system %.40q", name)
	}
	return nil
}

// maxCPU bounds the processor time of a build, in ns: many cores for some years.
const maxCPU = 1 << 62

// maxBytes bounds memory and sizes.
const maxBytes = 1 << 62

func validSample(s *estimate.Sample) error {
	if year := s.Time.Year(); year < 0 || year > 9999 { // all that JSON can have
		return fmt.Errorf("year %d is not in 0 to 9999", year)
	}
	return errors.Join(
		validName("machine", s.Machine, api.MaxName), validName("class", s.Class, api.MaxName), validName("version", s.Version, api.MaxName),
		finite("speed", s.Speed, 0, maxRate), finite("seconds", s.Duration.Seconds(), 0, maxSeconds),
		inRange("processor time", int64(s.CPU), maxCPU), inRange("memory", s.Memory, maxBytes), inRange("disk", s.Disk, maxBytes),
		inRange("input", s.Input, maxBytes), inRange("output", s.Output, maxBytes),
	)
}

func inRange(what string, n, most int64) error {
	if n < 0 || n > most {
		return fmt.Errorf("%s %d is not in 0 to %d", what, n, most)
	}
	return nil
}

// maxRoute bounds how a machine was reached: names of files and sockets, and a host key.
const maxRoute = 32 << 10

func (m *Machine) valid() error {
	if m.Name == "" {
		return errors.New("machine without a name")
	}
	return errors.Join(
		validName("machine", m.Name, api.MaxName), validText("public key", m.PublicKey, api.MaxPath), validText("route", m.Route, maxRoute), validText("agent", m.Agent, api.MaxName),
		finite("bandwidth", m.Bandwidth, 0, maxRate), finite("bandwidth from it", m.FetchBandwidth, 0, maxRate), finite("speed", m.SpeedLog, -100, 100), within("samples", m.SpeedSamples, 0, math.MaxInt32),
	)
}

// validSetting returns what is wrong with a name and a value, which is JSON.
func validSetting(name string, value []byte) error {
	switch {
	case name == "":
		return errors.New("setting without a name")
	case !json.Valid(value):
		return errors.New("its value is not JSON")
	}
	return validText("setting", name, api.MaxPath)
}

// encode returns a value as JSON, or an error if that is longer than a limit.
func encode(v any, limit int) ([]byte, error) {
	data, err := json.Marshal(v)
	if err == nil && len(data) > limit {
		return nil, fmt.Errorf("%d bytes as JSON, at most %d are taken", len(data), limit)
	}
	return data, err
}

// decode is the opposite of encode. It accepts only what is valid.
func decode[T any](data []byte, valid func(*T) error) (*T, error) {
	v := new(T)
	err := json.Unmarshal(data, v)
	if err == nil {
		err = valid(v)
	}
	return v, err
}
