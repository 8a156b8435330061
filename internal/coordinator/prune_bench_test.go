package coordinator

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/ledger"
	"lighter/store"
)

// BenchmarkPrune prunes half of the builds of a ledger, which have six events and a log
// each; "go test -bench Prune -benchtime 100000x" has 100,000. Reported are the builds that
// left a second, the sizes of the ledger before and after and of the archive, and how
// long a submission waited at most meanwhile.
func BenchmarkPrune(b *testing.B) {
	f := unstarted(b)
	keepsState(&f.config)
	f.config.Logger = slog.New(slog.DiscardHandler)
	f.start()
	b.Cleanup(f.shutDown)
	<-f.c.recovered
	var changes []ledger.Change
	for i := range b.N {
		changes = append(changes, life(f, i, i < b.N/2)...)
		if len(changes) > 5000 || i == b.N-1 {
			f.apply(changes...)
			changes = changes[:0]
		}
	}
	f.hooksSawAll()
	before := f.ledger.DiskUsage()
	drv := f.drv("one", "")
	stop, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		var most time.Duration
		for {
			select {
			case <-stop:
				longest <- most
				return
			default:
			}
			began := time.Now()
			if _, err := f.c.Submit(b.Context(), []api.Request{{Derivation: drv}}, nil); err != nil {
				b.Error(err)
			}
			most = max(most, time.Since(began))
			time.Sleep(10 * time.Millisecond) // a client now and then
		}
	}()
	b.ResetTimer()
	done, err := f.c.Prune(b.Context(), &api.Prune{OlderThan: month})
	b.StopTimer()
	close(stop)
	waited := <-longest
	if err != nil || done.Builds != b.N/2 || done.Logs != b.N/2 {
		b.Fatalf("%+v, %v", done, err)
	}
	const mega = 1 << 20
	b.ReportMetric(float64(done.Builds)/b.Elapsed().Seconds(), "builds/s")
	b.ReportMetric(float64(before)/mega, "MiB-before")
	b.ReportMetric(float64(f.ledger.DiskUsage())/mega, "MiB-after")
	b.ReportMetric(float64(done.Bytes)/mega, "MiB-archive")
	b.ReportMetric(float64(waited.Milliseconds()), "ms-longest-submit")
}

// life is all that happens to a build, long ago or lately.
func life(f *farm, i int, old bool) (changes []ledger.Change) {
	stopped := time.Now().Add(-24 * time.Hour)
	if old {
		stopped = stopped.Add(-60 * 24 * time.Hour)
	}
	r := api.Build{
		Request: api.Request{
			ID: newID(), Derivation: store.Path(fmt.Sprintf("/gnu/store/%032d-package-%d-1.%d.drv", i, i%500, i)),
			Tags: map[string]string{"branch": "master", "revision": fmt.Sprintf("%040d", i/1000)},
		},
		System: "x86_64-linux", Submitted: stopped.Add(-time.Hour),
		OutputPaths: map[string]store.Path{"out": store.Path(fmt.Sprintf("/gnu/store/%032d-package-%d-1.%d", i, i%500, i))},
	}
	states := []api.State{api.Queued, api.Placed, api.Sending, api.Building, api.Fetching, api.Succeeded}
	for _, s := range states {
		record := r
		record.State = s
		if s != api.Queued {
			record.Attempt, record.Machine, record.Reason = 1, fmt.Sprint("machine", i%20), "it finishes earliest there, in 1m0s"
		}
		if s.Final() {
			record.Stopped, record.BuildTime, record.LogSize, record.OutputSize = &stopped, 61.5, 123456, 1234567
		}
		changes = append(changes, ledger.Change{Build: &record, Create: s == api.Queued})
	}
	f.writeFile(f.c.logs.File(r.ID, 1)+".gz", "some text")
	return changes
}
