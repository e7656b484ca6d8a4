"""Downloads a Python package's source distribution into the working directory: pip's options, then the requirement.

`pip download` runs the set-up program of a source distribution to learn what it requires. This asks pip's own finder,
under pip's own configuration, where the file is, and fetches it over pip's own session: nothing in it is run.
"""
import sys

from pip._internal.commands import create_command
from pip._vendor.packaging.requirements import Requirement

command = create_command("download")
options, (text,) = command.parse_args(sys.argv[1:])
requirement = Requirement(text)
with command.main_context():
    session = command.get_default_session(options)
    finder = command._build_package_finder(options, session)
    found = finder.find_best_candidate(requirement.name, requirement.specifier).best_candidate
    if found is None:
        sys.exit(f"error: the index has no source distribution {text}")
    # Otherwise a server may inflate the archive on its way.
    as_it_is = {"Accept-Encoding": "identity"}
    response = session.get(found.link.url_without_fragment, stream=True, headers=as_it_is)
    response.raise_for_status()
    with open(found.link.filename, "wb") as file:
        for chunk in response.iter_content(1 << 16):
            file.write(chunk)
