package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lighter/store"
	"lighter/store/derivation"
)

// Statuses of an Error that are about builds.
const (
	statusPermanent = 100 // a builder failed
	statusTimeout   = 101
)

// Build implements store.Builder. The daemon decides what a builder may see: Inputs and
// SandboxPaths of the request are not used, and inputs that are not valid are built. A
// derivation that is not valid yet is added if the request has its text. Where the request
// sets no limit, those of the daemon's command line hold.
//
// The daemon has a user for each builder that runs, and fails a build for which it has none
// left; that is an error of the machine. So there must be as many build users as there are
// builds at a time.
func (s *Store) Build(ctx context.Context, req *store.BuildRequest) (*store.BuildResult, error) {
	result, err := s.build(ctx, req)
	var failed *store.BuildError
	if err != nil && !errors.As(err, &failed) {
		err = fmt.Errorf("build %s: %w", req.Derivation, err)
	}
	return result, err
}

func (s *Store) build(ctx context.Context, req *store.BuildRequest) (*store.BuildResult, error) {
	if err := s.check(req.Derivation); err != nil {
		return nil, err
	}
	if !req.Derivation.IsDerivation() {
		return nil, errors.New("it is not a derivation")
	}
	b := &build{store: s, req: req, options: options(req)}
	b.log = buildLog{derivation: req.Derivation, out: req.Log, begun: b.builderStarted}
	err := s.with(ctx, forBuild, b.options, func(c *conn) error {
		if req.Check {
			return b.check(ctx, c)
		}
		return b.run(c)
	})
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, b.blame(err)
	}
	if b.log.outErr != nil {
		s.logger.Warn("a log was not passed on to its end", "derivation", string(req.Derivation), "err", b.log.outErr)
	}
	return b.result, nil
}

// build is one call of Build.
type build struct {
	store   *Store
	req     *store.BuildRequest
	options string
	log     buildLog
	meter   meter
	drv     *derivation.Derivation
	result  *store.BuildResult
}

func (b *build) run(c *conn) error {
	valid, err := b.prepare(c)
	if err != nil {
		return err
	}
	began := time.Now()
	if len(valid) < len(b.drv.Outputs) {
		if err := c.setOptions(b.options); err != nil {
			return err
		}
		if err := b.realize(c, modeNormal); err != nil {
			return err
		}
	}
	stopped := time.Now()
	outputs, err := b.outputs(c)
	if err != nil {
		return err
	}
	b.setResult(outputs, began, stopped)
	b.result.AlreadyValid = b.log.started.IsZero()
	return nil
}

// setResult makes the result, with the times that the daemon told if it did.
func (b *build) setResult(outputs map[string]*store.Info, began, stopped time.Time) {
	b.result = &store.BuildResult{Outputs: outputs, Started: began, Stopped: stopped}
	if !b.log.started.IsZero() {
		b.result.Started = b.log.started
	}
	if !b.log.stopped.IsZero() {
		b.result.Stopped = b.log.stopped
	}
}

// prepare reads the derivation, makes sure that the daemon has it, and returns which of its
// outputs are valid.
func (b *build) prepare(c *conn) (valid []store.Path, err error) {
	s, text := b.store, b.req.Text
	// What is protected is looked at afterwards.
	if err := c.addTempRoots([]store.Path{b.req.Derivation}); err != nil {
		return nil, err
	}
	there, err := s.validOn(c, []store.Path{b.req.Derivation})
	if err != nil {
		return nil, err
	}
	if text == nil {
		if len(there) == 0 {
			return nil, &notValidError{b.req.Derivation}
		}
		if text, err = s.readText(b.req.Derivation, derivation.MaxSize); err != nil {
			return nil, err
		}
	}
	if b.drv, err = derivation.Parse(s.dir, text); err != nil {
		return nil, err
	}
	if len(there) == 0 {
		if err := b.add(c); err != nil {
			return nil, err
		}
	}
	paths := make([]store.Path, 0, len(b.drv.Outputs))
	for _, o := range b.drv.Outputs {
		paths = append(paths, o.Path)
	}
	if err := c.addTempRoots(paths); err != nil {
		return nil, err
	}
	return s.validOn(c, paths)
}

// add adds the derivation.
func (b *build) add(c *conn) error {
	refs := b.drv.References()
	path, err := b.store.dir.TextPath(b.req.Derivation.Name(), b.req.Text, refs)
	if err != nil {
		return err
	}
	if path != b.req.Derivation {
		return fmt.Errorf("%w: the text of the derivation belongs to %s", store.ErrCorrupt, path)
	}
	return b.store.addText(c, path, b.req.Text, refs)
}

// The modes of build-things (BuildMode in libstore).
const (
	modeNormal = 0
	modeCheck  = 2
)

func (b *build) realize(c *conn, mode uint64) error {
	c.op(opBuildThings)
	c.putPaths([]store.Path{b.req.Derivation})
	_ = c.w.Uint64(mode) // the error comes with call
	err := c.call(&streams{log: b.log.write})
	b.builderEnded()
	b.log.end()
	if err != nil {
		return err
	}
	return c.getDone()
}

func (b *build) outputs(c *conn) (map[string]*store.Info, error) {
	outputs := make(map[string]*store.Info, len(b.drv.Outputs))
	paths := make([]store.Path, 0, len(b.drv.Outputs))
	for _, o := range b.drv.Outputs {
		paths = append(paths, o.Path)
	}
	infos, err := b.store.infos(c, paths)
	if err != nil {
		return nil, err
	}
	for i, o := range b.drv.Outputs {
		if infos[i] == nil {
			return nil, fmt.Errorf("output %s is gone", o.Path)
		}
		outputs[o.Name] = infos[i]
	}
	return outputs, nil
}

// blame finds out whether the derivation is to blame for an error, and makes a
// *store.BuildError of it if so.
func (b *build) blame(err error) error {
	var said *Error
	if !errors.As(err, &said) {
		return err
	}
	message := said.Message
	if f := b.log.failed; f != nil && f.message != "" {
		message = f.message
	} else if n := len(b.log.notes); n > 0 && said.Status >= statusPermanent {
		message = b.log.notes[n-1]
	}
	failed := &store.BuildError{Derivation: b.req.Derivation, Message: printable(message), KeptIn: b.log.keptIn}
	switch {
	case b.diskFull():
		return fmt.Errorf("%w (perhaps the disk is full): %s", said, printable(message))
	case said.Status == statusTimeout:
		b.timedOut(failed)
	case !b.kindOf(failed, message):
		if strings.Contains(message, "is required to build") && strings.Contains(message, "but I am a") {
			return &store.UnableError{Reason: "it is for " + b.drv.System + ", and this machine's guix-daemon builds for others: " + printable(message)}
		}
		if said.Status != statusPermanent {
			return b.machineError(said)
		}
		failed.Failure = store.FailedExit
	}
	return failed
}

// diskFull reports whether the daemon suspects that.
func (b *build) diskFull() bool {
	return slices.ContainsFunc(b.log.notes, func(n string) bool {
		return strings.Contains(n, "lack of free disk space") || says(n, diskFullWords)
	})
}

// machineError adds the last of what the daemon said before to its error.
func (b *build) machineError(said *Error) error {
	const few = 5
	notes := b.log.notes[max(0, len(b.log.notes)-few):]
	if len(notes) == 0 {
		return said
	}
	return fmt.Errorf("%w: %s", said, printable(strings.Join(notes, "; ")))
}

func (b *build) timedOut(failed *store.BuildError) {
	failed.Failure, failed.Message = store.FailedTimeout, fmt.Sprintf("timed out after %v", b.req.Timeout)
	if b.req.Timeout == 0 {
		failed.Message = "timed out: the limit of this machine's guix-daemon"
	}
	for _, n := range b.log.notes {
		if strings.Contains(n, "seconds of silence") {
			after, _ := between(n, "timed out after ", " seconds of silence")
			failed.Failure, failed.Message = store.FailedSilence, fmt.Sprintf("timed out after %ss of silence", printable(after))
		}
	}
}

// kinds are the daemon's words for what may be wrong with a derivation or with what it
// made (build.cc in libstore).
var kinds = []struct {
	words   string
	failure store.BuildFailure
}{
	{"hash mismatch for", store.FailedHashMismatch},
	{"failed to produce output path", store.FailedOutput},
	{"should be a non-executable regular file", store.FailedOutput},
	{"suspicious ownership or permission", store.FailedOutput},
	{"has an unsupported type", store.FailedOutput},
	{"is not allowed to refer to", store.FailedReferences},
	{"is not allowed to have direct references", store.FailedReferences},
	{"invalid reference specifier", store.FailedReferences},
	{differenceWords, store.FailedDifference},
}

// noteKilled tells a builder that was killed, or what it ran, from one that ended by itself.
func noteKilled(failed *store.BuildError) {
	if failed.ExitCode == 128+int(syscall.SIGKILL) {
		failed.Failure = store.FailedKilled
	}
}

// kindOf fills in how the derivation failed, and reports whether it did.
func (b *build) kindOf(failed *store.BuildError, message string) bool {
	if code, ok := between(message+" ", "failed with exit code ", " "); ok {
		failed.Failure = store.FailedExit
		failed.ExitCode, _ = strconv.Atoi(code) // what is not a number is 0
		if name, ok := b.drv.IsBuiltin(); ok && strings.HasSuffix(name, "download") {
			failed.Failure = store.FailedDownload
		}
		noteKilled(failed)
		return true
	}
	if signal, ok := between(message+" ", "failed due to signal ", " "); ok {
		failed.Failure = store.FailedExit
		n, _ := strconv.Atoi(signal) // what is not a number is 0
		failed.ExitCode = 128 + n
		noteKilled(failed)
		return true
	}
	for _, k := range kinds {
		if strings.Contains(message, k.words) {
			failed.Failure = k.failure
			if k.failure == store.FailedHashMismatch && b.log.mismatch != "" {
				failed.Message += ": " + b.log.mismatch
			}
			return true
		}
	}
	return false
}
