package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/store"
)

// benchLedger submits builds from many clients, each durable when acknowledged. It has no peer.
func benchLedger(ctx context.Context, b *bench) error {
	const clients, builds = 64, 100_000
	drv, err := store.DefaultDir.TextPath("bench.drv", []byte("bench"), nil)
	if err != nil {
		return err
	}
	var times []time.Duration
	for i := range b.runs {
		l, err := ledger.Open(filepath.Join(b.folder, fmt.Sprintf("ledger-%d", i)), ledger.Options{})
		if err != nil {
			return err
		}
		start := time.Now()
		group, groupCtx := errgroup.WithContext(ctx)
		for range clients {
			group.Go(func() error { return submit(groupCtx, l, drv, builds/clients) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		times = append(times, time.Since(start))
		if err := l.Close(); err != nil {
			return err
		}
	}
	rate := float64(builds/clients*clients) / median(times).Seconds()
	b.rows = append(b.rows, row{"submissions into the ledger, durable, 64 clients", fmt.Sprintf("%.0f / s", rate), "aim: 20000 / s", fmt.Sprintf("%.2f", rate/20_000)})
	return nil
}

func submit(ctx context.Context, l *ledger.Ledger, drv store.Path, n int) error {
	for range n {
		build := &api.Build{Request: api.Request{ID: uuid.NewString(), Derivation: drv}, System: "x86_64-linux", State: api.Queued, Submitted: time.Now()}
		if _, err := l.Apply(ctx, []ledger.Change{{Build: build, Create: true}}, true); err != nil {
			return err
		}
	}
	return nil
}
