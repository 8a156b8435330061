// Package webtest has the tests of the page of the farm in a real browser: Chromium opens the pages of a "lighter
// web" whose coordinator has real builds.
//
// They look at what only a browser knows: that a page fits a telephone, that nothing runs or is fetched that came
// from a build, that keys and screen readers find their way, that contrast suffices in the dark. The flag -shots
// has them write pictures of all pages into a folder:
//
//	go test ./internal/web/webtest -run TestPages -shots /tmp/shots
package webtest
