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

	"github.com/klauspost/compress/gzip"

	"lighter/internal/api"
	"lighter/store"
)

// Failure is what failures/HASH holds, where HASH is that of the derivation's name.
type Failure struct {
	Derivation store.Path   `json:"derivation"`
	Build      string       `json:"build"` // id
	State      api.State    `json:"state"` // api.Failed or api.TimedOut
	Time       time.Time    `json:"time"`  // when it ended
	Failure    *api.Failure `json:"failure,omitempty"`
	Log        string       `json:"log,omitempty"` // where the log is served
}

// PublishBuild publishes the outputs of a build that succeeded, and its log. It returns a
// line about what it did. A failure of the same derivation that was published goes.
func (w *Writer) PublishBuild(ctx context.Context, b *api.Build) (string, error) {
	switch {
	case w.opts.Store == nil:
		return "", errors.New("publish: no store to publish from")
	case b.State != api.Succeeded:
		return fmt.Sprintf("the build is %s: nothing to publish", b.State), nil
	case b.OutputsOn != "":
		return fmt.Sprintf("the outputs are on machine %s, not at home: nothing to publish", b.OutputsOn), nil
	case len(b.OutputPaths) == 0:
		return "the build has no outputs: nothing to publish", nil
	}
	outputs := slices.Sorted(maps.Values(b.OutputPaths))
	written, err := w.PublishPaths(ctx, w.opts.Store, !w.opts.OutputsOnly, outputs...)
	if err != nil {
		return "", err
	}
	if _, err := w.publishLog(ctx, b); err != nil {
		return "", err
	}
	if err := w.fs.Remove(ctx, failureName(b.Derivation)); err != nil {
		return "", fmt.Errorf("publish %s in %s: %w", b.Derivation, w.fs, err)
	}
	return fmt.Sprintf("%d outputs published in %s; %d items written", len(outputs), w.fs, len(written)), nil
}

// PublishFailure publishes that a build failed, and its log.
func (w *Writer) PublishFailure(ctx context.Context, b *api.Build) (string, error) {
	if b.State != api.Failed && b.State != api.TimedOut {
		return fmt.Sprintf("the build is %s: no failure to publish", b.State), nil
	}
	if err := w.start(ctx); err != nil {
		return "", fmt.Errorf("publish: %w", err)
	}
	log, err := w.publishLog(ctx, b)
	if err != nil {
		return "", err
	}
	f := Failure{Derivation: b.Derivation, Build: b.ID, State: b.State, Failure: b.Failure, Log: log}
	if b.Stopped != nil {
		f.Time = *b.Stopped
	}
	text, err := json.MarshalIndent(f, "", "  ")
	if err == nil {
		err = w.put(ctx, failureName(b.Derivation), append(text, '\n'))
	}
	if err != nil {
		return "", fmt.Errorf("publish failure of %s in %s: %w", b.Derivation, w.fs, err)
	}
	return fmt.Sprintf("failure published in %s", w.fs), nil
}

func failureName(drv store.Path) string { return "failures/" + drv.HashPart() }

// publishLog publishes a build's log and returns its URL, or nothing where there is none.
func (w *Writer) publishLog(ctx context.Context, b *api.Build) (string, error) {
	if w.opts.Logs == nil {
		return "", nil
	}
	in, err := w.opts.Logs(ctx, b)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("publish log of %s: %w", b.ID, err)
	}
	defer in.Close()
	name := "log/" + b.Derivation.Base()
	err = w.fs.Put(ctx, name+".gz", func(out io.Writer) error {
		z := gzip.NewWriter(out)
		if _, err := io.Copy(z, in); err != nil {
			return err
		}
		return z.Close()
	})
	if err != nil {
		return "", fmt.Errorf("publish log of %s in %s: %w", b.ID, w.fs, err)
	}
	return name, nil
}
