// Package publish is the built-in event hook that publishes what builds made, and how they
// failed, in a folder from which Guix substitutes: package lighter/store/publish writes it.
package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"time"

	"lighter/hooks"
	"lighter/internal/api"
	"lighter/store"
	"lighter/store/publish"
)

// Hook is the hook. Folder and Store must be set.
type Hook struct {
	Folder *publish.Writer
	Store  publish.Source // has the outputs of builds
	// OutputsOnly says that what outputs refer to is not published.
	OutputsOnly bool
	// Logs returns the log of a build. Nil: logs are not published. An error that matches
	// fs.ErrNotExist means that there is none.
	Logs func(context.Context, *api.Build) (io.ReadCloser, error)
}

// Failure is what failures/HASH in the folder holds, where HASH is that of the derivation's name.
type Failure struct {
	Derivation store.Path   `json:"derivation"`
	Build      string       `json:"build"` // id
	State      api.State    `json:"state"` // how the build ended
	Time       time.Time    `json:"time"`  // when it ended
	Failure    *api.Failure `json:"failure,omitempty"`
	Log        string       `json:"log,omitempty"` // where the log is served
}

// Run is called for each event of the hook.
func (h *Hook) Run(ctx context.Context, e *hooks.Event) (string, error) {
	switch {
	case e.Build == nil:
		return "there is no build to publish", nil
	case e.Name == hooks.BuildSucceeded:
		return h.success(ctx, e.Build)
	case e.Name == hooks.BuildFailed, e.Name == hooks.BuildTimedOut:
		return h.failure(ctx, e.Build)
	}
	return "nothing is published of " + e.Name, nil
}

// Parallel is how many runs there may be where the settings do not say.
func (*Hook) Parallel() int { return 4 }

// success publishes the outputs of a build, and its log. A failure of the same derivation
// that was published goes.
func (h *Hook) success(ctx context.Context, b *api.Build) (string, error) {
	switch {
	case b.State != api.Succeeded:
		return fmt.Sprintf("the build is %s: nothing to publish", b.State), nil
	case b.OutputsOn != "":
		return fmt.Sprintf("the outputs are on machine %s, not on the head: nothing to publish", b.OutputsOn), nil
	case len(b.OutputPaths) == 0:
		return "the build has no outputs: nothing to publish", nil
	}
	outputs := slices.Sorted(maps.Values(b.OutputPaths))
	written, err := h.Folder.PublishPaths(ctx, h.Store, !h.OutputsOnly, outputs...)
	if err != nil {
		return "", err
	}
	if _, err := h.log(ctx, b); err != nil {
		return "", err
	}
	if err := h.Folder.RemoveFailure(ctx, b.Derivation); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d outputs published in %s; %d items written", len(outputs), h.Folder, len(written)), nil
}

// failure publishes that a build failed, and its log.
func (h *Hook) failure(ctx context.Context, b *api.Build) (string, error) {
	if !b.State.FailedItself() && b.State != api.DependencyFailed {
		return fmt.Sprintf("the build is %s: no failure to publish", b.State), nil
	}
	log, err := h.log(ctx, b)
	if err != nil {
		return "", err
	}
	f := Failure{Derivation: b.Derivation, Build: b.ID, State: b.State, Failure: b.Failure, Log: log}
	if b.Stopped != nil {
		f.Time = *b.Stopped
	}
	text, err := json.MarshalIndent(f, "", "  ")
	if err == nil {
		err = h.Folder.PutFailure(ctx, b.Derivation, append(text, '\n'))
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("failure published in %s", h.Folder), nil
}

// log publishes a build's log and returns where it is served, or nothing where there is none.
func (h *Hook) log(ctx context.Context, b *api.Build) (string, error) {
	if h.Logs == nil {
		return "", nil
	}
	in, err := h.Logs(ctx, b)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("publish log of %s: %w", b.ID, err)
	}
	defer in.Close()
	return h.Folder.PutLog(ctx, b.Derivation, in)
}
