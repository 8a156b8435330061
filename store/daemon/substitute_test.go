package daemon

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/testkit"
	"lighter/store"
)

func TestSubstitute(t *testing.T) {
	testkit.CheckLeaks(t)
	paths := []store.Path{nothing, wireText}
	names := []string{string(nothing), string(wireText)}
	options := enc(opSetOptions, 0, 1, 0, 0, 0, 0, 0, 1, 1, 2,
		"multiplexed-build-output", "true", "substitute-urls", "https://a.example http://b.example")
	for _, tt := range []struct {
		name, says string
		answer     []byte
		want       []store.Path
	}{
		{"all", "", enc(replyLast, 1), paths},
		{"one", "", enc(replyLast, 1), paths[1:]},
		{"none", "", enc(replyLast, 1), nil},
		{"one, and a failure", "substitute 2 items: build of `x' failed", enc(replyError, "build of `x' failed", 1), paths[:1]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			valid := []string{}
			for _, p := range tt.want {
				valid = append(valid, string(p))
			}
			roots := append(enc(opAddTempRoot, nothing), enc(opAddTempRoot, wireText)...)
			s := startFake(t, play(t,
				step{roots, enc(replyLast, 1, replyLast, 1)},
				step{options, enc(replyLast)},
				step{enc(opBuildThings, names, 0), tt.answer},
				step{enc(opQueryValidPaths, names), enc(replyLast, valid)},
			)).open()
			got, err := s.Substitute(soon(t), []string{"https://a.example", "http://b.example"}, paths)
			if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got error %v, want %q", err, tt.says)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" && len(tt.want)+len(got) > 0 {
				t.Errorf("fetched (-want +got):\n%s", diff)
			}
		})
	}
	s := startFake(t, play(t)).open()
	if got, err := s.Substitute(soon(t), nil, nil); err != nil || len(got) != 0 {
		t.Errorf("nothing: got %v, %v", got, err)
	}
	if _, err := s.Substitute(soon(t), nil, []store.Path{"/elsewhere/x"}); err == nil {
		t.Error("an item of another store was asked for")
	}
}
