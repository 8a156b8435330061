package local

// memberVariable tells a process of the test binary that it is one of several that use
// a store at the same time.
const memberVariable = "LIGHTER_TEST_MEMBER"

func runMember() int { return 0 }
