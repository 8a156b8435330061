package coordinator

import (
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"lighter/internal/api"
)

func quiet(c *Config) {
	c.Logger = slog.New(slog.DiscardHandler)
	for i := range c.Machines {
		c.Machines[i].ParallelBuilds = 4
	}
}

// BenchmarkBuilds measures what the coordinator adds to a build that takes no time, on
// two machines with four slots each. Agents and stores are in memory; the signatures
// that they make and check are real.
func BenchmarkBuilds(b *testing.B) {
	b.Run("calls", func(b *testing.B) { benchmarkBuilds(b, false) })
	b.Run("http", func(b *testing.B) { benchmarkBuilds(b, true) })
}

func benchmarkBuilds(b *testing.B, http bool) {
	f := newFarm(b, quiet, "m1", "m2")
	if http {
		f.shutDown()
		overHTTP(f)(&f.config)
		f.start()
	}
	requests := make([]api.Request, b.N)
	for i := range requests {
		requests[i] = api.Request{Derivation: f.drv(fmt.Sprintf("d%d", i), "")}
	}
	b.ResetTimer()
	f.submitAll(requests)
	for f.ledger.Counts()[api.Succeeded] < b.N {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "builds/s")
	f.idle()
}

// BenchmarkSubmit measures submissions of one build each, from 64 clients, each durable
// when it is acknowledged.
func BenchmarkSubmit(b *testing.B) {
	f := newFarm(b, quiet)
	var requests []api.Request
	for i := range 100 {
		requests = append(requests, api.Request{Derivation: f.drv(fmt.Sprintf("d%d", i), "")})
	}
	b.ResetTimer()
	const clients = 64
	var wait sync.WaitGroup
	for c := range clients {
		wait.Go(func() {
			for i := c; i < b.N; i += clients {
				if _, err := f.c.Submit(b.Context(), requests[i%100:i%100+1], nil); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wait.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "submissions/s")
}

// BenchmarkSubmitMany measures submissions of many derivations at once, up to where
// all of them are in the queue.
func BenchmarkSubmitMany(b *testing.B) {
	f := newFarm(b, quiet)
	requests := make([]api.Request, b.N)
	for i := range requests {
		requests[i] = api.Request{Derivation: f.drv(fmt.Sprintf("d%d", i), "")}
	}
	before := heap()
	b.ResetTimer()
	f.submitAll(requests)
	for queued := 0; queued < b.N; {
		if err := f.c.do(b.Context(), func(l *loop) { queued = l.queue.Len() }); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "builds/s")
	b.ReportMetric(float64(heap()-before)/float64(b.N), "heap-B/build")
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func (f *farm) submitAll(requests []api.Request) {
	f.t.Helper()
	for len(requests) > 0 {
		n := min(len(requests), api.MaxSubmit)
		f.request(requests[:n]...)
		requests = requests[n:]
	}
}
