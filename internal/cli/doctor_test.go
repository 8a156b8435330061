package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lighter/internal/cli/command"
	"lighter/internal/doctor"
)

func TestDoctorSaysWhatItFinds(t *testing.T) {
	good := []doctor.Finding{{Check: "socket", Level: doctor.OK, Detail: "/s"}, {Check: "clock", Level: doctor.Note, Detail: "fast", Fix: "wait"}}
	bad := append(slices.Clone(good), doctor.Finding{Check: "machine " + evil, Level: doctor.Problem, Detail: evil, Fix: "mend " + evil})
	const lines = "OK       socket         /s\nnote     clock          fast\n         → wait\n"
	for name, c := range map[string]struct {
		findings []doctor.Finding
		json     bool
		code     int
		want     string
	}{
		"good": {findings: good, want: lines + "\n0 problems, 1 note\n"},
		"bad":  {findings: bad, code: command.ExitFailure, want: lines + "PROBLEM  machine evil\\x1b[2J\\r\\x07 evil\\x1b[2J\\r\\x07\n         → mend evil\\x1b[2J\\r\\x07\n\n1 problem, 1 note\n"},
		"of several lines": {
			findings: []doctor.Finding{{Check: "settings", Level: doctor.OK, Detail: "f:1:9: expected ]\n    [[machine\n            ^\n"}},
			want:     "OK       settings       f:1:9: expected ]\n             [[machine\n                     ^\n\n0 problems, 0 notes\n",
		},
		"as JSON": {findings: bad[1:2], json: true, want: `{"check":"clock","level":"note","detail":"fast","fix":"wait"}` + "\n"},
	} {
		var out bytes.Buffer
		err := writeFindings(t.Context(), &command.Invocation{Process: command.Process{Out: &out, Getenv: noEnv}}, slices.Values(c.findings), c.json)
		code := command.ExitDone
		if err != nil {
			code, _ = command.ExitCode(err)
		}
		if code != c.code || out.String() != c.want {
			t.Errorf("%s: exit code %d, %q, want %q", name, code, out.String(), c.want)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(command.ErrInterrupted)
	if err := writeFindings(ctx, &command.Invocation{Process: command.Process{Out: io.Discard, Getenv: noEnv}}, slices.Values(good), false); !errors.Is(err, command.ErrInterrupted) {
		t.Errorf("interrupted: %v", err)
	}
}

func noEnv(string) string { return "" }

func TestDoctorCommand(t *testing.T) {
	s := newStub(t)
	s.run("", "doctor", "--drop-unusable", "--accept-loss").want(t, command.ExitUsage, "", "one after the other")
	s.run("", "doctor", "--drop-unusable").want(t, command.ExitFailure, "PROBLEM  ledger", "")
	got := s.run("", "doctor", "--json", "--socket", filepath.Join(s.folder, "none"))
	got.want(t, command.ExitFailure, `{"check":"socket","level":"problem",`, "")
	if strings.Contains(got.out, "problems,") {
		t.Errorf("as JSON: %s", got.out)
	}
}
