// Package version says which lighter this is.
package version

import "runtime/debug"

// Version is the release, as CHANGELOG.md names it.
const Version = "0.1.0"

// Full is the release and, where the program was built in a clone of its repository, the commit:
// "0.1.0+358b0d83", with ".modified" if files differed from it.
func Full() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Version
	}
	return withCommit(info.Settings)
}

func withCommit(settings []debug.BuildSetting) string {
	const digits = 8
	version, modified := Version, ""
	for _, s := range settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= digits:
			version += "+" + s.Value[:digits]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = ".modified"
		}
	}
	if version == Version {
		return Version
	}
	return version + modified
}
