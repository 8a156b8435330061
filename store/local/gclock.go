package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"lighter/internal/backoff"
)

// gcLock keeps garbage collections apart. It is a file that names its owner, and
// counts as long as the owner is alive.
type gcLock struct{ *claims }

// lock waits until this process may collect garbage.
func (g gcLock) lock(ctx context.Context) error {
	if err := g.beThere(); err != nil {
		return err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := g.tryLock()
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		running, err := g.running()
		if err != nil {
			return err
		}
		if !running {
			if err := g.breakLock(); err != nil {
				return err
			}
			continue
		}
		if err := backoff.Wait(ctx, pause); err != nil {
			return err
		}
	}
}

// tryLock makes the lock file, name and contents in one step.
func (g gcLock) tryLock() error {
	tmp, err := g.tmpName()
	if err != nil {
		return err
	}
	if err := writeNew(tmp, []byte(g.owner.String()+"\n")); err != nil {
		return err
	}
	err = linkNew(tmp, g.layout.gcLock())
	return errors.Join(err, remove(tmp))
}

// unlock gives the lock back, unless others took this process for dead.
func (g gcLock) unlock() error {
	holder, err := g.holder()
	if err != nil || holder != g.owner.String() {
		return err
	}
	return remove(g.layout.gcLock())
}

// holder returns who has the lock, or "".
func (g gcLock) holder() (string, error) {
	text, err := os.ReadFile(g.layout.gcLock())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(text)), err
}

// running reports whether a process that is alive has the lock.
func (g gcLock) running() (bool, error) {
	holder, err := g.holder()
	if err != nil || holder == "" {
		return false, err
	}
	o, ok := parseOwner(holder)
	if !ok {
		return false, fmt.Errorf("%s: %q is not an owner", g.layout.gcLock(), holder)
	}
	if o.machine == thisMachine() {
		return g.layout.newCensus(time.Time{}).alive(o), nil
	}
	census, err := g.census()
	return err == nil && census.alive(o), err
}

// breakLock takes the lock away from a dead process. Of several processes that
// try, one succeeds. A lock that a live process has taken meanwhile is given back.
func (g gcLock) breakLock() error {
	tmp, err := g.tmpName()
	if err != nil {
		return err
	}
	if err := os.Rename(g.layout.gcLock(), tmp); err != nil {
		return ignoreNotExist(err)
	}
	text, err := os.ReadFile(tmp)
	if err != nil {
		return err
	}
	if o, ok := parseOwner(strings.TrimSpace(string(text))); ok {
		census, err := g.census()
		if err != nil {
			return err
		}
		if census.alive(o) {
			if err := linkNew(tmp, g.layout.gcLock()); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	return remove(tmp)
}
