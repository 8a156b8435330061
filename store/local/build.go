package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"lighter/internal/binfmt"
	"lighter/nar"
	"lighter/store"
	"lighter/store/derivation"
)

// Build implements store.Builder. The output names of a derivation with known
// contents are computed again and compared. Those of others are the caller's business:
// checking them takes the whole graph of derivations.
//
// A build of an output that is being built by the same open store waits for it. A check
// never waits: it has a folder of its own, and publishes nothing.
func (s *Store) Build(ctx context.Context, req *store.BuildRequest) (*store.BuildResult, error) {
	result, err := s.build(ctx, req)
	var failure *store.BuildError
	if err != nil && !errors.As(err, &failure) {
		err = s.layout.explainSpace(err)
	}
	return result, err
}

func (s *Store) build(ctx context.Context, req *store.BuildRequest) (*store.BuildResult, error) {
	drv, err := s.derivation(ctx, req)
	if err != nil {
		return nil, err
	}
	b := &build{store: s, req: req, drv: drv, lease: s.claims.newLease("build " + req.Derivation.Base())}
	for _, o := range drv.Outputs {
		b.outputs = append(b.outputs, o.Path)
	}
	defer b.lease.Release() //nolint:errcheck // a lease that stays ends with the store
	if err := b.lease.Add(ctx, append(slices.Clone(b.outputs), req.Derivation)...); err != nil {
		return nil, err
	}
	if req.Check {
		return b.run(ctx)
	}
	if result, err := b.alreadyValid(ctx); result != nil || err != nil {
		return result, err
	}
	first := slices.Min(b.outputs)
	return s.inflight.do(ctx, first, func() (*store.BuildResult, error) {
		// Another build may just have ended.
		if result, err := b.alreadyValid(ctx); result != nil || err != nil {
			return result, err
		}
		return b.run(ctx)
	})
}

// derivation returns the derivation to build, checked as far as it can be.
func (s *Store) derivation(ctx context.Context, req *store.BuildRequest) (*derivation.Derivation, error) {
	if req.Derivation.Dir() != s.layout.dir || !req.Derivation.IsDerivation() {
		return nil, fmt.Errorf("it is not a derivation of the store %s", s.layout.dir)
	}
	if req.Text == nil {
		return s.readDerivation(ctx, req.Derivation)
	}
	drv, err := derivation.Parse(s.layout.dir, req.Text)
	if err != nil {
		return nil, err
	}
	path, err := s.layout.dir.TextPath(req.Derivation.Name(), req.Text, drv.References())
	if err != nil {
		return nil, err
	}
	if path != req.Derivation {
		return nil, fmt.Errorf("%w: the text of the derivation belongs to %s", store.ErrCorrupt, path)
	}
	if _, fixed := drv.FixedOutput(); fixed {
		return drv, drv.Check(s.layout.dir, derivation.NameOf(path), noInputs)
	}
	return drv, nil
}

// noInputs resolves no derivation: the output name of a fixed-output derivation does
// not depend on any.
func noInputs(path store.Path) (*derivation.Derivation, error) { return nil, store.NotValid(path) }

// readDerivation reads a derivation that is valid in the store.
func (s *Store) readDerivation(ctx context.Context, path store.Path) (*derivation.Derivation, error) {
	r, err := s.items.record(ctx, path)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(s.layout.data(r.data()))
	if err != nil {
		return nil, err
	}
	drv, err := derivation.Parse(s.layout.dir, text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return drv, nil
}

// build is one build of one derivation.
type build struct {
	store   *Store
	req     *store.BuildRequest
	drv     *derivation.Derivation
	outputs []store.Path
	lease   *lease

	valid   map[store.Path]*store.Info // outputs that were valid before
	inputs  []*record                  // what the builder may see, sorted by path
	folder  buildFolder
	budget  *nar.Budget // of all outputs
	log     *buildLog
	started time.Time
	used    store.Measured
}

// alreadyValid returns the result if there is nothing to do. It remembers which
// outputs are there.
func (b *build) alreadyValid(ctx context.Context) (*store.BuildResult, error) {
	b.valid = make(map[store.Path]*store.Info)
	outputs := make(map[string]*store.Info, len(b.drv.Outputs))
	for _, o := range b.drv.Outputs {
		info, err := b.store.Info(ctx, o.Path)
		if errors.Is(err, store.ErrNotValid) {
			continue
		}
		if err != nil {
			return nil, err
		}
		outputs[o.Name], b.valid[o.Path] = info, info
	}
	if len(outputs) < len(b.drv.Outputs) {
		return nil, nil //nolint:nilnil // there is no result yet
	}
	now := time.Now()
	return &store.BuildResult{Outputs: outputs, Started: now, Stopped: now, AlreadyValid: true}, nil
}

// run builds.
func (b *build) run(ctx context.Context) (*store.BuildResult, error) {
	s := b.store
	builtin, isBuiltin := b.drv.IsBuiltin()
	if systems := slices.Concat(s.Systems(), binfmt.Systems()); !isBuiltin && !slices.Contains(systems, b.drv.System) {
		return nil, unable("it is for %s, and this machine builds for %s", b.drv.System, strings.Join(systems, ", "))
	}
	if isBuiltin && builtin != "download" {
		return nil, unable("this machine has no builder %s", shorten(b.drv.Builder))
	}
	if err := b.findInputs(ctx); err != nil {
		return nil, err
	}
	log, err := newBuildLog(s.claims, b.req)
	if err != nil {
		return nil, err
	}
	b.log = log
	b.started = time.Now()
	result, err := b.realize(ctx, isBuiltin)
	if problem := log.close(); problem != nil {
		s.opts.Logger.Warn("the log of a build was not kept", "derivation", string(b.req.Derivation), "err", problem)
	}
	return result, err
}

// realize makes the build's folder, builds in it, and removes it.
func (b *build) realize(ctx context.Context, isBuiltin bool) (_ *store.BuildResult, err error) {
	if b.folder, err = b.store.sandboxes.makeFolder(b.req.Derivation.Name()); err != nil {
		return nil, err
	}
	limited, limits := b.withLimits(ctx)
	defer func() {
		limits.builderEnded()
		if b.req.Measured != nil {
			*b.req.Measured = b.used
		}
		var failure *store.BuildError
		if errors.As(err, &failure) && b.req.KeepFailed && !isBuiltin && failure.Failure != store.FailedDiskFull {
			kept, keepErr := b.folder.keep()
			failure.KeptIn = kept
			b.reportProblem("the folder of a failed build was not kept", keepErr)
		}
		b.reportProblem("the folder of a build was not removed", b.folder.remove())
		limits.end()
	}()
	switch {
	case limited.Err() != nil: // no room to begin with
		err = context.Cause(limited)
	case isBuiltin:
		err = b.download(limited)
	default:
		err = limits.disk.judge(b.runBuilder(limited))
		b.measureDisk()
	}
	if err != nil {
		return nil, b.blame(ctx, limited, err)
	}
	stopped := time.Now()
	limits.builderEnded()
	infos, err := b.register(limited)
	if err != nil {
		return nil, b.blame(ctx, limited, err)
	}
	result := &store.BuildResult{Outputs: make(map[string]*store.Info), Started: b.started, Stopped: stopped}
	maps.Copy(infos, b.valid)
	for _, o := range b.drv.Outputs {
		result.Outputs[o.Name] = infos[o.Path]
	}
	return result, nil
}

// maxMeasured is how many files of a build's folder are looked at to measure it: some 20 ms.
const maxMeasured = 20_000

// measureDisk measures the folder of a builder that has ended.
func (b *build) measureDisk() {
	var all bool
	if b.used.Disk, all = nar.DiskUsageUpTo(b.folder.name, maxMeasured); !all {
		b.used.Unmeasured = strings.TrimPrefix(fmt.Sprintf("%s; disk: that of the first %d files", b.used.Unmeasured, maxMeasured), "; ")
	}
}

func (b *build) reportProblem(problem string, err error) {
	if err != nil {
		b.store.opts.Logger.Warn(problem, "derivation", string(b.req.Derivation), "err", err)
	}
}

// withLimits bounds a context by the build's limits. The context's cause says which one
// ended it.
func (b *build) withLimits(ctx context.Context) (context.Context, *limits) {
	ctx, cancel := context.WithCancelCause(ctx)
	l := &limits{build: b, cancel: cancel, disk: b.store.disk.watch(b, cancel)}
	if d := b.req.Timeout; d > 0 {
		l.time = time.AfterFunc(d, func() { cancel(b.failure(store.FailedTimeout, "timed out after %v", d)) })
	}
	if d := b.req.MaxSilentTime; d > 0 {
		l.silence = time.AfterFunc(d, func() { cancel(b.failure(store.FailedSilence, "timed out after %v of silence", d)) })
		b.log.watch(l.silence, d)
	}
	return ctx, l
}

// limits are those of one build that runs.
type limits struct {
	build         *build
	cancel        context.CancelCauseFunc
	time, silence *time.Timer // nil if there is no such limit
	disk          *watched
}

// builderEnded ends the limits of the builder alone. The time limit is also for what follows.
func (l *limits) builderEnded() {
	l.build.log.watch(nil, 0)
	if l.silence != nil {
		l.silence.Stop()
	}
	l.disk.builderEnded()
}

// end must be called when the build's folder is gone.
func (l *limits) end() {
	l.builderEnded()
	l.disk.end()
	if l.time != nil {
		l.time.Stop()
	}
	l.cancel(nil)
}

// blame says why a build ended in err: because the caller's context ended, because
// the context with the build's limits ended, or for err's own reason.
func (b *build) blame(ctx, limited context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if limited.Err() != nil {
		return context.Cause(limited)
	}
	return err
}

// failure returns an error of the derivation itself.
func (b *build) failure(failure store.BuildFailure, format string, args ...any) *store.BuildError {
	return &store.BuildError{Derivation: b.req.Derivation, Failure: failure, Message: fmt.Sprintf(format, args...)}
}

// findInputs finds what the builder may see, and leases it.
func (b *build) findInputs(ctx context.Context) error {
	paths := b.req.Inputs
	if paths == nil {
		var err error
		if paths, err = b.directInputs(ctx); err != nil {
			return err
		}
	}
	if err := b.lease.Add(ctx, paths...); err != nil {
		return err
	}
	seen := make(map[store.Path]bool, len(paths))
	for queue := slices.Clone(paths); len(queue) > 0; {
		p := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if seen[p] {
			continue
		}
		seen[p] = true
		r, err := b.store.items.record(ctx, p)
		if err != nil {
			return fmt.Errorf("input: %w", err)
		}
		b.inputs = append(b.inputs, r)
		if b.req.Inputs == nil {
			queue = append(queue, r.References...)
		}
	}
	slices.SortFunc(b.inputs, func(x, y *record) int { return strings.Compare(string(x.Path), string(y.Path)) })
	return nil
}

// directInputs returns the sources, and the outputs of input derivations, which must
// be valid.
func (b *build) directInputs(ctx context.Context) ([]store.Path, error) {
	paths := slices.Clone(b.drv.Sources)
	for _, in := range b.drv.Inputs {
		if err := b.lease.Add(ctx, in.Path); err != nil {
			return nil, err
		}
		drv, err := b.store.readDerivation(ctx, in.Path)
		if err != nil {
			return nil, fmt.Errorf("input: %w", err)
		}
		for _, name := range in.Outputs {
			o, ok := drv.Output(name)
			if !ok {
				return nil, fmt.Errorf("input %s has no output %s", in.Path, name)
			}
			paths = append(paths, o.Path)
		}
	}
	return paths, nil
}
