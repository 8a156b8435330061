package cli

import (
	"strings"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/cli/command"
)

func TestWebLogin(t *testing.T) {
	s := newStub(t)
	s.answer("POST /v1/logins", api.Login{Token: "q6xG", Caller: api.Caller{UID: 5, User: "alice"}, Expires: time.Now()})
	s.answer("DELETE /v1/sessions", api.EndedSessions{Sessions: 2, Logins: 1})
	there := &api.Installation{}
	s.answer("GET /v1/installation", there)
	s.run("", "web", "login").want(t, command.ExitDone, "http://127.0.0.1:8767/login?token=q6xG\n", "to act as alice, who may submit builds and change your own")
	there.Web = "https://farm.example.org"
	s.run("", "web", "login").want(t, command.ExitDone, "https://farm.example.org/login?token=q6xG\n", "lighter web --allow-steering")
	s.run("", "web", "login", "--url", "http://head:1/").want(t, command.ExitDone, "http://head:1/login?token=q6xG\n", "")
	s.run("", "web", "login", "--end-all").want(t, command.ExitDone, "ended 2 sessions, and 1 link that nobody had used\n", "")
	for flags, want := range map[string]string{
		"--url ftp://head": "does not start with https:// or http://", "--url https://head/farm": "more than a host and a port",
		"--end-all --url http://head": "leave out --url",
	} {
		s.run("", append([]string{"web", "login"}, strings.Fields(flags)...)...).want(t, command.ExitUsage, "", want)
	}
	s.run("", "web", "--url", "https://head").want(t, command.ExitUsage, "", "it wants --allow-steering")
	s.run("", "web", "--allow-steering", "--url", "head").want(t, command.ExitUsage, "", "does not start with")
}
