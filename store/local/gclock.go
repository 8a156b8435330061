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

// lockGC waits until this process is the one that collects garbage. The lock is a
// file with the owner's name, which counts as long as the owner is alive.
func (s *Store) lockGC(ctx context.Context) error {
	if err := s.beThere(); err != nil {
		return err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := s.tryLockGC()
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		running, err := s.gcRunning()
		if err != nil {
			return err
		}
		if !running {
			if err := s.breakLockGC(); err != nil {
				return err
			}
			continue
		}
		if err := backoff.Wait(ctx, pause); err != nil {
			return err
		}
	}
}

// tryLockGC makes the lock file in one step, name and contents.
func (s *Store) tryLockGC() error {
	tmp, err := s.tmpName()
	if err != nil {
		return err
	}
	if err := writeNew(tmp, []byte(s.owner.String()+"\n")); err != nil {
		return err
	}
	err = linkNew(tmp, s.layout.gcLock())
	return errors.Join(err, remove(tmp))
}

// unlockGC gives the lock back, unless others took this process for dead.
func (s *Store) unlockGC() error {
	holder, err := s.gcHolder()
	if err != nil || holder != s.owner.String() {
		return err
	}
	return remove(s.layout.gcLock())
}

// gcHolder returns who has the lock, or "".
func (s *Store) gcHolder() (string, error) {
	text, err := os.ReadFile(s.layout.gcLock())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(text)), err
}

// gcRunning reports whether a process that is alive has the lock.
func (s *Store) gcRunning() (bool, error) {
	holder, err := s.gcHolder()
	if err != nil || holder == "" {
		return false, err
	}
	o, ok := parseOwner(holder)
	if !ok {
		return false, fmt.Errorf("%s: %q is not an owner", s.layout.gcLock(), holder)
	}
	now := time.Time{}
	if o.machine != thisMachine() {
		if now, err = s.clock(); err != nil {
			return false, err
		}
	}
	return s.newCensus(now).alive(o), nil
}

// breakLockGC takes the lock away from a dead process. Of several processes that
// try, one succeeds; what another has taken meanwhile is given back.
func (s *Store) breakLockGC() error {
	tmp, err := s.tmpName()
	if err != nil {
		return err
	}
	if err := os.Rename(s.layout.gcLock(), tmp); err != nil {
		return ignoreNotExist(err)
	}
	text, err := os.ReadFile(tmp)
	if err != nil {
		return err
	}
	if o, ok := parseOwner(strings.TrimSpace(string(text))); ok {
		now, err := s.clock()
		if err != nil {
			return err
		}
		if s.newCensus(now).alive(o) {
			if err := linkNew(tmp, s.layout.gcLock()); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	return remove(tmp)
}
