// Package version says which lighter this is.
package version

// Version is the release, as CHANGELOG.md names it.
const Version = "0.1.0"
