package backoff

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

func TestAfter(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		failures    int
		first, most time.Duration
		chance      float64
		want        time.Duration
	}{
		{0, s, 60 * s, 0, s},
		{1, s, 60 * s, 0, s},
		{2, s, 60 * s, 0, 2 * s},
		{6, s, 60 * s, 0, 32 * s},
		{7, s, 60 * s, 0, 60 * s},
		{math.MaxInt, s, 60 * s, 0, 60 * s},
		{math.MaxInt, 0, 60 * s, 0, 0},
		{1, 60 * s, 60 * s, 0, 60 * s},
		{3, s, 60 * s, 0.5, 3500 * time.Millisecond},
	} {
		if got := After(tt.failures, tt.first, tt.most, tt.chance); got != tt.want {
			t.Errorf("%+v: got %s", tt, got)
		}
	}
	if got := After(7, s, 60*s, 0.999); got <= 45*s || got > 46*s {
		t.Errorf("by chance: got %s", got)
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if err := Wait(t.Context(), time.Minute); err != nil || time.Since(began) != time.Minute {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		stopped := errors.New("stopped")
		time.AfterFunc(time.Second, func() { cancel(stopped) })
		if err := Wait(ctx, time.Minute); !errors.Is(err, stopped) || time.Since(began) != 61*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pause
		if left := p.Left(); left > 0 {
			t.Errorf("nothing has failed, and %s are left", left)
		}
		failed := errors.New("failed")
		for _, longest := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second} {
			p.Begin(failed, time.Second, 3*time.Second)
			if left := p.Left(); left < longest*3/4 || left > longest || !errors.Is(p.Cause, failed) {
				t.Errorf("%s of %s, for %v", left, longest, p.Cause)
			}
			time.Sleep(longest)
			if left := p.Left(); left > 0 {
				t.Errorf("%s are left after %s", left, longest)
			}
		}
	})
}
