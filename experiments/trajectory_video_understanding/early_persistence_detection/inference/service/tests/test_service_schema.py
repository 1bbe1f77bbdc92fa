"""Whatever the OpenAPI document allows, and what it forbids: never a failure, and answers as documented."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from early_persistence_detection.inference.service.tests.running_service import RunningService, running
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running(tmp_path_factory.mktemp("schema"), "--max_jobs", "1") as made:
        made.put("a")
        yield made


def test_every_request_is_answered_as_documented(service):
    document = schemathesis.openapi.from_url(f"http://127.0.0.1:{service.port}/openapi.json")
    operations = [found.ok() for found in document.exclude(path="/v1/events").get_all_operations()]  # that has no end
    assert len(operations) >= 15

    statuses = set()
    for operation in operations:
        cases = operation.as_strategy()
        wrong = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

        @settings(
            max_examples=15,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=st.one_of(cases, wrong))
        def send(case):
            answer = case.call(timeout=60)
            assert answer.status_code not in (500, 502, 504), f"{case.as_curl_command()}: {answer.text}"
            statuses.add(answer.status_code)
            if answer.status_code != 405:
                case.validate_response(answer, checks=[content_type_conformance, response_schema_conformance])

        send()
    assert {200, 201, 400, 404} <= statuses
    assert service.process.poll() is None and service.post("a", {"boxes": []}).status_code in (200, 404)
