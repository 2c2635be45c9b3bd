"""Readings from the three formats, and the sentence for each kind of bad input."""

from __future__ import annotations

import numpy as np
import pytest

from ode_core import DataError
from ode_tasks.data.glucose import load

TIDY = """subject,time,glucose_mg_dl
b,2024-03-01T08:00:00,101
b,2024-03-01T08:05:00,103
a,2024-03-01T08:01:30,99.5
"""

CLARITY = """Index,Timestamp (YYYY-MM-DDThh:mm:ss),Event Type,Event Subtype,Patient Info,\
Device Info,Source Device ID,\
Glucose Value ({unit}),Insulin Value (u),Carb Value (grams),Duration (hh:mm:ss)
1,,FirstName,,Jane,,,,,,
2,,LastName,,Doe,,,,,,
3,,DateOfBirth,,1990-01-01,,,,,,
4,,Device,,,Dexcom G6 Mobile App,iPhone G6,,,,
5,,Alert,Low,,,iPhone G6,70,,,
6,2024-03-01T08:00:03,EGV,,,,iPhone G6,{first},,,
7,2024-03-01T08:05:03,EGV,,,,iPhone G6,Low,,,
8,2024-03-01T08:06:00,Insulin,Fast-Acting,,,iPhone G6,,2.0,,
9,2024-03-01 08:10:03,EGV,,,,iPhone G6,High,,,
10,2024-03-01T08:11:00,Calibration,,,,iPhone G6,999,,,
"""

OHIO = """<?xml version="1.0" encoding="utf-8"?>
<patient id="559" weight="99" insulin_type="Novalog">
<glucose_level>
<event ts="07-12-2021 01:17:00" value="101"/>
<event ts="07-12-2021 01:22:00" value="98"/>
</glucose_level>
<finger_stick>
<event ts="07-12-2021 01:20:00" value="9999"/>
</finger_stick>
</patient>
"""


@pytest.fixture
def write(tmp_path):
    def into(content, name="data.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return into


def refused(path):
    """Return the sentence with which a file is refused."""
    with pytest.raises(DataError) as caught:
        load(path)
    return str(caught.value)


def test_a_tidy_csv(write):
    cohort = load(write(TIDY))
    assert [person.subject for person in cohort.series] == ["a", "b"]
    second = cohort.series[1]
    assert second.glucose.tolist() == [101.0, 103.0]
    assert (np.diff(second.times) == np.timedelta64(5, "m")).all()
    assert second.times[0] == np.datetime64("2024-03-01T08:00:00")
    assert cohort.notes == ()


def test_other_columns_order_case_and_a_byte_order_mark_do_not_matter(write):
    content = "\ufeffdevice, Glucose_mg_dl ,TIME,Subject\r\nx,101,2024-03-01 08:00,b\r\n\r\n"
    (person,) = load(write(content)).series
    assert (person.subject, person.glucose.tolist()) == ("b", [101.0])


def test_a_column_in_mmol_l_is_converted(write):
    header = TIDY.replace("glucose_mg_dl", "glucose_mmol_l").splitlines()[0]
    (person,) = load(write(f"{header}\na,2024-03-01T08:00:00,5.5\n")).series
    assert person.glucose[0] == pytest.approx(5.5 * 18.016)


def test_times_with_an_offset_become_utc(write):
    (person,) = load(write(f"{TIDY.splitlines()[0]}\na,2024-03-01T08:00:00+02:00,90\n")).series
    assert person.times[0] == np.datetime64("2024-03-01T06:00:00")


@pytest.mark.parametrize(("unit", "first"), [("mg/dL", "126.112"), ("mmol/L", "7.0")])
def test_a_clarity_export(write, unit, first):
    cohort = load(write(CLARITY.format(unit=unit, first=first), "Clarity_Export_7.csv"))
    (person,) = cohort.series
    assert person.subject == "Clarity_Export_7"
    assert person.glucose == pytest.approx([126.112, 40.0, 400.0])
    assert person.times[2] == np.datetime64("2024-03-01T08:10:03")
    low, high = cohort.notes
    assert "1 readings 'Low' count as 40 mg/dL" in low
    assert "1 readings 'High' count as 400 mg/dL" in high


def test_a_clarity_export_may_begin_with_other_lines(write):
    content = "Export of Clarity\n\n" + CLARITY.format(unit="mg/dL", first="126")
    (person,) = load(write(content)).series
    assert len(person.glucose) == 3


def test_ohio_xml_is_told_by_content_not_by_suffix(write):
    (person,) = load(write(OHIO, "559-ws-training.csv")).series
    assert person.subject == "559"
    assert person.glucose.tolist() == [101.0, 98.0]
    assert person.times[0] == np.datetime64("2021-12-07T01:17:00")  # the day comes first


def test_a_folder_joins_the_files_of_a_person(write):
    write(OHIO, "train/559-ws-training.xml")
    later = OHIO.replace("07-12-2021", "08-12-2021")
    write(later, "test/559-ws-testing.xml")
    write(TIDY, "others.CSV")
    path = write("no data", "notes.md").parent
    cohort = load(path)
    assert [person.subject for person in cohort.series] == ["559", "a", "b"]
    assert len(cohort.series[0].glucose) == 4


def test_lines_out_of_order_are_sorted_and_repeated_ones_merged_with_a_note(write):
    header, first, second, third = TIDY.splitlines()
    cohort = load(write("\n".join([header, second, first, first, third])))
    assert cohort.series[1].glucose.tolist() == [101.0, 103.0]
    assert cohort.notes == (
        "1 readings stood before an earlier one and were sorted",
        "1 repeated readings were merged",
    )


def test_two_values_at_one_time_are_refused(write):
    sentence = refused(write(TIDY + "b,2024-03-01T08:05:00,180\n"))
    assert "contradict" in sentence
    assert "data.csv:3" in sentence
    assert "data.csv:5" in sentence


def test_a_missing_column_is_named_with_what_was_found(write):
    sentence = refused(write("id,time,gl\na,2024-03-01T08:00:00,90\n"))
    assert "no column subject and no column glucose_mg_dl" in sentence
    assert "'id,time,gl'" in sentence
    assert "subject,time,glucose_mg_dl" in sentence


def test_a_missing_column_of_a_clarity_export_is_named(write):
    content = CLARITY.format(unit="mg/dL", first="126").replace("Event Type", "Kind")
    assert "no column 'event type'" in refused(write(content))


def test_unreadable_rows_are_named_by_line_and_counted(write):
    bad = (
        "b,yesterday,101\nb,2024-03-01T08:15:00,abc\nb,2024-03-01T08:20:00\n,2024-03-01T09:00:00,9"
    )
    many = "".join(f"\nb,2024-03-01T09:{m:02d}:00,nan" for m in range(1, 5))
    sentence = refused(write(TIDY + bad + many + "\n"))
    assert "8 of 11 rows cannot be read" in sentence
    assert "line 5 (time 'yesterday')" in sentence
    assert "line 6 (glucose 'abc')" in sentence
    assert "line 7 (glucose '')" in sentence
    assert "line 8 (subject '')" in sentence
    assert "and 3 more" in sentence
    assert "correct or remove" in sentence


def test_a_decimal_comma_is_not_taken_for_a_whole_number(write):
    sentence = refused(write(TIDY + "b,2024-03-01T08:30:00,101,5\n"))
    assert "line 5 (glucose '101,5')" in sentence
    load(write(TIDY + "b,2024-03-01T08:30:00,101,,\n"))  # spreadsheets leave empty cells behind


def test_line_numbers_count_blank_lines(write):
    assert "line 7 (glucose 'x')" in refused(write(TIDY + "\n\nb,2024-03-01T10:00:00,x\n"))


def test_unreadable_events_of_xml_are_named_by_line(write):
    sentence = refused(write(OHIO.replace('01:22:00" value="98"', '01:22:00" value="?"')))
    assert "1 of 2 rows cannot be read: line 5 (glucose '?')" in sentence


@pytest.mark.parametrize("value", ["0", "-4", "1001"])
def test_implausible_values_are_refused(write, value):
    sentence = refused(write(TIDY + f"b,2024-03-01T08:30:00,{value}\n"))
    assert "1 of 4 readings are not plausible" in sentence
    assert f"line 5 ({value})" in sentence


def test_mmol_under_the_name_of_mg_is_refused(write):
    header = TIDY.splitlines()[0]
    sentence = refused(write(f"{header}\na,2024-03-01T08:00:00,5.5\na,2024-03-01T08:05:00,6\n"))
    assert "mmol/L" in sentence
    assert "glucose_mmol_l" in sentence


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (TIDY.splitlines()[0], "a header and nothing below"),
        (TIDY.encode("utf-16"), "not UTF-8"),
        ("subject,time,glucose_mg_dl\nJosé,x,1\n".encode("latin-1"), "not UTF-8"),
        ("<html><body/></html>", "root is <html>"),
        ("<patient id='1'><meal/></patient>", "0 <glucose_level>"),
        ("<patient id='1'><glucose_level/></patient>", "holds no glucose readings"),
        ("<patient id='1'><glucose_level>", "not well-formed XML"),
        (CLARITY.format(unit="mg/dL", first="126").partition("6,2024")[0], "event type EGV"),
    ],
)
def test_files_without_readings_are_refused(write, content, said):
    sentence = refused(write(content))
    assert said in sentence
    assert "data.csv" in sentence


def test_a_path_without_readings_is_refused(tmp_path):
    assert "no file and no folder" in refused(tmp_path / "missing.csv")
    (tmp_path / "readme.txt").write_text("hello")
    assert "found: readme.txt" in refused(tmp_path)


def test_the_hall_file(shared_data):
    cohort = load(shared_data / "cgm/hall2018_subset19.csv")
    assert len(cohort.series) == 19
    assert sum(len(person.glucose) for person in cohort.series) == 34_890
    assert cohort.notes == ()


MEALS = """subject,time,glucose_mg_dl,carbohydrate_g,insulin_u
a,2024-03-01T08:00:00,100,,
a,2024-03-01T08:02:00,,40,4.5
a,2024-03-01T08:05:00,104,0,
a,2024-03-01T08:02:00,,10,
b,2024-03-01T08:05:00,90,,1
c,2024-03-01T08:05:00,90,,
"""


def test_meals_and_insulin_stand_in_columns_of_their_own(tmp_path):
    path = tmp_path / "meals.csv"
    path.write_text(MEALS)
    a, b, c = load(path).series
    assert a.glucose.tolist() == [100, 104]
    assert a.taken.times.astype(str).tolist() == ["2024-03-01T08:02:00.000"]
    assert a.taken.amounts.tolist() == [[50, 4.5]]
    assert b.glucose.tolist() == [90]
    assert b.taken.amounts.tolist() == [[0, 1]]
    assert c.taken is None


@pytest.mark.parametrize("cell", ["-3", "much", "inf"])
def test_an_amount_that_is_none_is_refused(tmp_path, cell):
    path = tmp_path / "meals.csv"
    path.write_text(MEALS.replace(",40,", f",{cell},"))
    with pytest.raises(DataError, match="1 cells of the column carbohydrate_g.*line 3"):
        load(path)


def test_a_line_without_a_reading_and_without_an_intake_is_refused(tmp_path):
    path = tmp_path / "meals.csv"
    path.write_text(MEALS + "c,2024-03-01T08:10:00,,,\n")
    with pytest.raises(DataError, match="line 8 .glucose"):
        load(path)
    path.write_text(MEALS.replace("b,2024-03-01T08:05:00", ",2024-03-01"))
    with pytest.raises(DataError, match="line 6 .subject"):
        load(path)
