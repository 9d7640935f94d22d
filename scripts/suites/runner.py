# Owns: running one module of CPython's test suite, test by test, in the interpreter that is to be tested. Each result is a line of
# JSON in RESULTS as soon as it is known, so that nothing is lost where a test hangs (it is cut off after SECONDS) or crashes.
#
#   runner.py MODULE RESULTS SECONDS PATTERN…     tests that RESULTS has already are left out (one that only began there hung), and those
#                                                 whose names match a pattern

import faulthandler
import fnmatch
import json
import os
import sys
import unittest

from test import support


def load(path):
    begun, done = set(), set()
    if os.path.exists(path):
        with open(path) as file:
            for line in file:
                entry = json.loads(line)
                (done if "status" in entry else begun).add(entry["id"])
    return begun, done


class Result(unittest.TestResult):
    def __init__(self, file, seconds):
        super().__init__()
        self.file, self.seconds, self.status = file, seconds, {}

    def write(self, **entry):
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()

    def startTest(self, test):
        super().startTest(test)
        self.status[test.id()] = "ok"
        self.write(id=test.id())
        faulthandler.dump_traceback_later(self.seconds, exit=True)

    def stopTest(self, test):
        faulthandler.cancel_dump_traceback_later()
        super().stopTest(test)
        self.write(id=test.id(), status=self.status[test.id()])

    def note(self, test, status, detail=None):
        if test.id() in self.status:
            self.status[test.id()] = status
        else:
            # A class or module whose preparation failed: it stands for its tests.
            self.write(id=test.id(), status=status)
        if detail:
            print(f"{status}: {test.id()}\n{detail}", flush=True)

    def addError(self, test, err):
        super().addError(test, err)
        self.note(test, "error", self.errors[-1][1])

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.note(test, "failed", self.failures[-1][1])

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.note(test, "failed", str(err[1]))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.note(test, "skipped")

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self.note(test, "expected failure")


def without(suite, left_out, patterns):
    kept = unittest.TestSuite()
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            kept.addTest(without(test, left_out, patterns))
        elif test.id() not in left_out and not any(fnmatch.fnmatchcase(test.id(), pattern) for pattern in patterns):
            kept.addTest(test)
    return kept


def main():
    module, path, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    # Nothing that takes minutes. There is no network here but loopback, of which some tests think as one.
    support.use_resources = ["network"]
    support.verbose = False
    begun, done = load(path)
    with open(path, "a") as file:
        result = Result(file, seconds)
        for test in begun - done:
            result.write(id=test, status="hung")
        suite = unittest.defaultTestLoader.loadTestsFromName("test." + module)
        without(suite, begun | done, sys.argv[4:]).run(result)
        result.write(id="", status="complete")
    # Threads of a test that failed may still wait for something.
    os._exit(0)


if __name__ == "__main__":
    main()
