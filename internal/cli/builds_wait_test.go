package cli

import (
	"net/http"
	"strings"
	"testing"

	"lighter/internal/api"
	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/submission"
	"lighter/store"
)

func TestWait(t *testing.T) {
	s := newStub(t)
	s.answer("GET /v1/status", api.Status{LastEvent: 7})
	s.mux.HandleFunc("GET /v1/events", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	good, bad, open := oneBuild("aaaa1111", "good", api.Succeeded), oneBuild("bbbb2222", "bad", api.Failed), oneBuild("cccc3333", "open", api.Building)
	good.OutputPaths = map[string]store.Path{"out": "/gnu/store/00000000000000000000000000000000-good"}
	bad.Failure = &api.Failure{Culprit: api.CulpritDerivation, Message: "exit code 3"}
	named := oneBuild(submission.BuildID("nightly", drv("named")), "named", api.Canceled)
	for _, b := range []api.Build{good, bad, open, named} {
		s.answer("GET /v1/builds/"+b.ID, &b)
		s.answer("GET /v1/builds/"+b.ID[:4], &b)
	}
	s.mux.HandleFunc("GET /v1/builds/{id}/log", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("oh\n")) })
	s.mux.HandleFunc("GET /v1/builds", func(w http.ResponseWriter, r *http.Request) {
		list := api.BuildList{Builds: []api.Build{good, bad, named}}
		if r.URL.Query().Get("tag") == "k=none" {
			list.Builds = nil
		}
		_ = base.WriteJSON(w, list)
	})
	for args, want := range map[string]struct {
		code      int
		out, errs string
	}{
		"aaaa":                  {command.ExitDone, "/gnu/store/00000000000000000000000000000000-good\n", "1 of 1 build done"},
		"aaaa1111 bbbb":         {command.ExitBuildFailed, "/gnu/store/00000000000000000000000000000000-good\n", "failed    bad: exit code 3\n"},
		"--tag k=v":             {command.ExitBuildFailed, "/gnu/store/00000000000000000000000000000000-good\n", "1 of 3 builds done, 1 failed, 1 canceled"},
		"--submission nightly":  {command.ExitCanceled, "", "0 of 1 build done, 1 canceled"},
		"--timeout 10ms cccc":   {command.ExitTimedOut, "", "after 10ms not all builds are finished; they go on"},
		"--tag k=none":          {command.ExitFailure, "", "there are no such builds"},
		"--submission weekly":   {command.ExitFailure, "", "there are no such builds"},
		"":                      {command.ExitUsage, "", "which builds?"},
		"aaaa --tag k=v":        {command.ExitUsage, "", "by ID or by filter, not both"},
		"--timeout soon aaaa":   {command.ExitUsage, "", "is not a length of time"},
		"--quiet --json aaaa":   {command.ExitDone, `{"id":"aaaa1111"`, ""},
		"--json aaaa bbbb1 -q":  {command.ExitFailure, "", "404"},
		"--submission x --name": {command.ExitUsage, "", "--name wants a value"},
	} {
		s.run("", append([]string{"builds", "wait"}, strings.Fields(args)...)...).want(t, want.code, want.out, want.errs)
	}
	if asked := s.requests("POST"); len(asked) > 0 {
		t.Errorf("waiting changed something: %q", asked)
	}
}
