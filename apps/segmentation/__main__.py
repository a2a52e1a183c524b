from apps.segmentation import main

if __name__ == "__main__":
    main()
