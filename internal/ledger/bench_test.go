package ledger

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lighter/internal/api"
)

// BenchmarkSubmit measures builds a second that are new and durable when
// acknowledged, from 64 clients, one in each Apply. Run it with -benchtime=100000x.
func BenchmarkSubmit(b *testing.B) {
	const clients = 64
	l := open(b, b.TempDir(), Options{})
	var next atomic.Int64
	var group sync.WaitGroup
	var longest atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	for range clients {
		group.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				record := build(fmt.Sprintf("6fa459ea-ee8a-3ca4-894e-%012d", i), api.Queued)
				record.Tags = map[string]string{"specification": "guix", "evaluation": "123456"}
				start := time.Now()
				if _, err := l.Apply(context.Background(), []Change{{Build: record, Create: true}}, true); err != nil {
					b.Error(err)
					return
				}
				if took := int64(time.Since(start)); took > longest.Load() {
					longest.Store(took)
				}
			}
		})
	}
	group.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "builds/s")
	b.ReportMetric(float64(longest.Load())/1e6, "ms-longest")
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	b.ReportMetric(float64(memory.Sys)/(1<<20), "MiB-of-memory")
	if b.N <= 100000 {
		check(b, l)
	}
}

// BenchmarkOpen measures a start with 100,000 builds, of which 1,000 are not final.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	l := open(b, dir, Options{})
	for i := 0; i < 100_000; i += 1000 {
		changes := make([]Change, 1000)
		for j := range changes {
			state := api.Succeeded
			if j%100 == 0 {
				state = api.Queued
			}
			changes[j].Build = build(fmt.Sprint(i+j), state)
		}
		apply(b, l, changes...)
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		l, err := Open(dir, Options{})
		if err != nil {
			b.Fatal(err)
		}
		if n := len(list(b, l, Filter{Filter: api.Filter{States: NonFinal()}, OldestFirst: true})); n != 1000 {
			b.Fatalf("%d builds", n)
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCount counts 100,000 builds by a tag that three quarters of them have.
func BenchmarkCount(b *testing.B) {
	l := open(b, b.TempDir(), Options{})
	for i := 0; i < 100_000; i += 1000 {
		changes := make([]Change, 1000)
		for j := range changes {
			record := build(fmt.Sprint(i+j), api.States()[j%len(api.States())])
			record.System, record.Tags = fmt.Sprint("system", j%4), map[string]string{"part": fmt.Sprint(j % 8 / 6)}
			changes[j].Build = record
		}
		apply(b, l, changes...)
	}
	f := &api.Filter{Tags: map[string]string{"part": "0"}}
	for b.Loop() {
		counts, err := l.Count(b.Context(), f)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for _, in := range counts.States() {
			n += in
		}
		if n != 75_000 {
			b.Fatalf("%d builds", n)
		}
	}
}
