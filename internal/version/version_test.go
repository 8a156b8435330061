package version

import (
	"runtime/debug"
	"testing"
)

func TestCommit(t *testing.T) {
	revision, modified := debug.BuildSetting{Key: "vcs.revision", Value: "358b0d83a7c4"}, debug.BuildSetting{Key: "vcs.modified", Value: "true"}
	for want, settings := range map[string][]debug.BuildSetting{
		Version:                        {modified},
		Version + "+358b0d83":          {revision},
		Version + "+358b0d83.modified": {revision, modified},
	} {
		if got := withCommit(settings); got != want {
			t.Errorf("%v: %s, want %s", settings, got, want)
		}
	}
}
