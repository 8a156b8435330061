package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/store"
)

// testBuilds are the newest builds of a machine: nine that ended, every third failed, and one that runs.
func testBuilds(r *http.Request) (any, error) {
	if r.URL.Query().Get("machine") == "" {
		return nil, api.BadRequest("all builds are too many")
	}
	list := api.BuildList{Builds: []api.Build{{Request: api.Request{ID: "runs", Derivation: "/gnu/store/00000000000000000000000000000000-runs-1.drv"}, State: api.Building}}}
	for i := range 9 {
		stopped := testNow.Add(-time.Duration(i) * time.Hour)
		b := api.Build{Request: api.Request{ID: fmt.Sprint("build", i), Derivation: store.Path(fmt.Sprintf("/gnu/store/00000000000000000000000000000000-b%d-1.drv", i))}, State: api.Succeeded, Stopped: &stopped}
		if i%3 == 0 {
			b.State, b.Failure = api.Failed, &api.Failure{Culprit: api.CulpritDerivation, Kind: "hash-mismatch", Message: hostile}
		}
		if i == 6 {
			b.Failure = &api.Failure{Culprit: api.CulpritLink, Phase: api.Sending, Message: "timed out"}
		}
		list.Builds = append(list.Builds, b)
	}
	return list, nil
}

func TestMachinePage(t *testing.T) {
	status := func(r *http.Request) (any, error) {
		v, err := testStatus(r)
		s := v.(*api.Status)
		s.Machines[1].Name = hostile[:len(hostile)-1]
		s.Transfers = []api.Transfer{{Machine: "alpha", Direction: api.Send, Items: 3, Bytes: 1 << 20, Started: testNow}, {Machine: "other", Items: 77}}
		s.Machines[0].Hardware = &api.Hardware{CPU: hostile, Cores: 8, Memory: 1 << 36}
		s.Machines[0].Tags = map[string]string{hostile: hostile}
		s.Machines[0].Tokens, s.Machines[0].TakenTokens = map[string]int{"licence": 2}, map[string]int{"licence": 1}
		return s, err
	}
	read := make(chan struct{})
	var asked atomic.Int32
	events := func(r *http.Request) (any, error) {
		if asked.Add(1) > 1 { // what was answered before has been read
			close(read)
			<-r.Context().Done()
			return []api.Event{}, nil
		}
		var list []api.Event
		for i := range 40 {
			begun := api.Event{Seq: uint64(2*i + 1), Time: testNow.Add(time.Duration(i-50) * time.Minute), Build: fmt.Sprint("build", i), Machine: "alpha", Attempt: 1, State: api.Building, Derivation: "/gnu/store/00000000000000000000000000000000-hello-1.drv"}
			ended := begun
			ended.Seq, ended.Time, ended.State = begun.Seq+1, begun.Time.Add(5*time.Minute), []api.State{api.Fetching, api.Failed}[i%2]
			list = append(list, begun, ended)
		}
		return list, nil
	}
	s := newServer(t, coordinator{"GET /v1/status": status, "GET /v1/builds": testBuilds, "GET /v1/history": testHistory(1), "GET /v1/events": events})
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	reading.Go(func() { s.Run(ctx) })
	<-read
	h := s.Handler()
	page := get(t, h, "/machine/alpha").Body.String()
	for _, want := range []string{
		"✔</span> up", "hello-2.12", "overdue", "3 of the newest 9 builds there failed", "the output has another hash than is fixed", "the link", "75 %", "Slots in use", "Builds in its slots",
		"hello-1: failed, 5m00s", "hello-1: succeeded", "licence", "1 of 2 taken", "↑ to alpha", `href="/builds?machine=alpha&amp;state=failed`, `data-live="alpha"`, "known from",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if strings.Contains(page, ">77<") || len(page) > 100_000 {
		t.Errorf("%d bytes, or what travels to another machine", len(page))
	}
	harmless(t, page)
	other := get(t, h, "/machine/"+url.PathEscape(hostile[:len(hostile)-1]))
	if other.Code != http.StatusOK || !strings.Contains(other.Body.String(), "No builds are known there since") {
		t.Errorf("%d: %s", other.Code, other.Body)
	}
	harmless(t, other.Body.String())
	if none := get(t, h, "/machine/"+url.PathEscape(hostile)); none.Code != http.StatusNotFound {
		t.Errorf("a machine that is not there: %d", none.Code)
	}
	var m MachinePage
	if err := json.Unmarshal(get(t, h, "/machine/alpha.json").Body.Bytes(), &m); err != nil || m.Name != "alpha" || m.Word != "up" || m.Failed != 3 || m.Looked != 9 ||
		len(m.Failures) != 2 || m.Failures[0].Count != 2 || len(m.Attempts) != 40 || m.Attempts[0].Build != "build39" || len(m.Recent) != 9 || m.Use.Part != 75 {
		t.Errorf("the twin: %+v, %v", m, err)
	}
}
